"""A folder over HTTP with ranges, for trying remote streaming.

Listens on this machine alone unless another address is given; nobody is asked to sign in. At most
`MAX_CONNECTIONS` are open at a time, and one that is idle for `IDLE_S` is closed.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))$")
COPY_BYTES = 1 << 20
MAX_CONNECTIONS = 256
IDLE_S = 30.0
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class RangeHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the files of one folder, whole or by one range of bytes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_S

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
        if (path := self._file()) is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size = path.stat().st_size
        start, stop = 0, size
        if asked := RANGE.match(self.headers.get("Range", "")):
            start = int(asked[1]) if asked[1] else max(0, size - int(asked[3]))
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
        """Send the bytes from `start` to `stop`; a file that has become shorter ends the answer."""
        with path.open("rb") as file:
            while start < stop:
                data = os.pread(file.fileno(), min(COPY_BYTES, stop - start), start)
                if not data:
                    self.close_connection = True
                    return
                self.wfile.write(data)
                start += len(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def _file(self) -> Path | None:
        """Return the file of this request, links followed; None if it is none in the folder."""
        try:
            path = (self.folder / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
            inside = path.is_relative_to(self.folder.resolve())
            return path if inside and path.is_file() and os.access(path, os.R_OK) else None
        except (OSError, ValueError):  # no file can be called so
            return None


class _Server(ThreadingHTTPServer):
    """Turns away the connections beyond `MAX_CONNECTIONS`; says nothing of those that break off."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._free = BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there is room for one more."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        request.setblocking(False)
        with suppress(OSError):
            request.send(BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that left or fell asleep."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def serving(
    folder: Path, *, host: str = "127.0.0.1", port: int = 0, handler: type = RangeHandler
) -> Iterator[str]:
    """Serve `folder` in the background and yield its URL; port 0 takes a free one."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, got {port}")
    try:
        server = _Server((host, port), partial(handler, folder=folder))
    except OSError as error:
        raise ValueError(
            f"{host}:{port}: cannot listen there ({error.strerror}); give another --port or --host"
        ) from None
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
