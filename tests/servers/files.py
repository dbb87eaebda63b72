"""A web server of a folder's files, by ranges, as object stores give them; faults on demand.

Example, in a shell: python -m tests.servers.files FOLDER --port 8080 --fault-rate 0.1
In Python: with FileServer(folder, fault_rate=0.1) as server: server.url, server.num_requests
"""

import argparse
import random
import re
import threading
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

FAULTS = ("503", "429", "reset", "truncate")


@dataclass(kw_only=True)
class FileServer:
    """Serves `folder`; a context manager. `fault_rate` of the requests fail, each its own way."""

    folder: Path
    fault_rate: float = 0.0
    seed: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self.num_requests = 0
        self.num_faults = 0
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The address of the folder."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def next_fault(self) -> str | None:
        """Count a request and return what shall go wrong with it."""
        with self._lock:
            self.num_requests += 1
            if self._random.random() >= self.fault_rate:
                return None
            self.num_faults += 1
            return self._random.choice(FAULTS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: connections that break are part of the act."""


class _Handler(BaseHTTPRequestHandler):
    owner: FileServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._respond(body=False)

    def do_GET(self) -> None:
        self._respond(body=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""

    def _respond(self, *, body: bool) -> None:
        fault = self.owner.next_fault()
        path = self.owner.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
        elif fault in ("503", "429"):
            self._head(int(fault), 0, {})
        elif not path.is_file():
            self._head(404, 0, {})
        else:
            self._file(path, body=body, cut=fault == "truncate")

    def _file(self, path: Path, *, body: bool, cut: bool) -> None:
        status = path.stat()
        start, stop, code = 0, status.st_size, 200
        headers = {
            "ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"',
            "Last-Modified": formatdate(status.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
        }
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            code, last = 206, int(match[2] or stop)
            start, stop = (int(match[1]), min(stop, last + 1)) if match[1] else (stop - last, stop)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
        self._head(code, stop - start, headers)
        if not body:
            return
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection |= cut

    def _head(self, code: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers.files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0: any free one, printed")
    parser.add_argument("--fault-rate", type=float, default=0.0)
    args = parser.parse_args()
    with FileServer(folder=args.folder, port=args.port, fault_rate=args.fault_rate) as server:
        print(server.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
