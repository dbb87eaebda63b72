"""A web server of a folder that differs, always in the same way, from what readers hope for.

In Python: with serving(folder, handler=odd("no ranges")) as url: ...
"""

import gzip
import threading
import time
from pathlib import Path

from shards.cli.serve import RangeHandler


def odd(kind: str, name: str = "") -> "type[Odd]":
    """Return a handler of this kind for the files whose path holds `name`; the others are served.

    A number: it answers with that status.
    """
    return type("Odd", (Odd,), {"kind": kind, "name": name, "asked": threading.Event()})


class Odd(RangeHandler):
    """`asked` is set once such a file is asked for."""

    kind = ""
    name = ""
    asked: threading.Event

    def answer(self, *, with_body: bool) -> None:
        if self.name not in self.path:
            super().answer(with_body=with_body)
            return
        self.asked.set()
        if self.kind == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.kind.isdigit():
            self.send_error(int(self.kind))
        elif self.kind == "no HEAD" and not with_body:
            self.send_error(405)
        elif self.kind == "silent":
            time.sleep(30)
        elif self.kind in ("no ranges", "no length", "gzip", "bomb", "br"):
            self._whole(with_body=with_body)
        else:
            super().answer(with_body=with_body)

    def send_bytes(self, path: Path, start: int, stop: int) -> None:
        if self.kind == "cut" and self.name in self.path:
            stop = start + (stop - start) // 2
            self.close_connection = True
        super().send_bytes(path, start, stop)

    def _whole(self, *, with_body: bool) -> None:
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if self.kind in ("gzip", "bomb"):
            data = gzip.compress(data if self.kind == "gzip" else bytes(1 << 24))
        self.send_response(200)
        if self.kind in ("gzip", "bomb", "br"):
            self.send_header("Content-Encoding", "br" if self.kind == "br" else "gzip")
        if self.kind == "no length":
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            self.wfile.write(data)
