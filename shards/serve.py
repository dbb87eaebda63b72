"""A folder over HTTP with ranges, for trying remote streaming."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

RANGE = re.compile(r"bytes=(\d+)-(\d*)$")
COPY_BYTES = 1 << 20


class RangeHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the files of one folder, whole or by one range of bytes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, *args: Any, folder: Path) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_GET(self) -> None:
        """Send a file or a part of it."""
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send a file's size."""
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        """Send the head, and the body if asked."""
        path = self.folder / unquote(urlsplit(self.path).path).lstrip("/")
        inside = path.resolve().is_relative_to(self.folder.resolve())
        if not inside or not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size = path.stat().st_size
        start, stop = 0, size
        if asked := RANGE.match(self.headers.get("Range", "")):
            start = int(asked[1])
            stop = min(int(asked[2]) + 1, size) if asked[2] else size
            if start >= stop:
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if with_body:
            self.send_bytes(path, start, stop)

    def send_bytes(self, path: Path, start: int, stop: int) -> None:
        """Send the bytes from `start` to `stop`."""
        with path.open("rb") as file:
            while start < stop:
                data = os.pread(file.fileno(), min(COPY_BYTES, stop - start), start)
                self.wfile.write(data)
                start += len(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def serving(
    folder: Path, *, host: str = "127.0.0.1", port: int = 0, handler: type = RangeHandler
) -> Iterator[str]:
    """Serve `folder` in the background and yield its URL; port 0 takes a free one."""
    server = ThreadingHTTPServer((host, port), partial(handler, folder=folder))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
