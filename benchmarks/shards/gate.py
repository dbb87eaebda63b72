"""A link between a client and a server on this machine: a rate, a latency, and faults.

    python benchmarks/shards/gate.py UPSTREAM_PORT RATE LATENCY FAILING

Prints the port it listens on. All connections together pass RATE bytes a second from the server;
each request for a .tar comes LATENCY seconds late, and the share FAILING of them fails: answered
503, reset, cut short, or a second later still.
"""

import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

PIECE = 128 << 10
FAULTS = ("503", "reset", "cut", "slow")
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Link:
    """A rate that all connections share."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate, self._lock = bytes_per_s, threading.Lock()
        self._free_at = 0.0

    def wait(self, count: int) -> None:
        """Return when `count` bytes have had their turn."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._rate
            until = self._free_at
        time.sleep(max(0.0, until - time.monotonic()))


class Passage:
    """One connection through the gate."""

    def __init__(self, client: socket.socket, port: int, link: Link) -> None:
        self.client, self.link = client, link
        self.server = socket.create_connection(("127.0.0.1", port))
        self.fault = ""

    def ask(self, latency: float, failing: float) -> None:
        """Pass requests on, late; some fail."""
        while data := self.client.recv(PIECE):
            time.sleep(latency)
            if b".tar" in data.split(b"\r\n", 1)[0] and random.random() < failing:
                self.fault = random.choice(FAULTS)
            if self.fault == "slow":
                self.fault = ""
                time.sleep(1.0)
            if self.fault == "503":
                self.fault = ""
                self.client.sendall(BUSY)
            else:
                self.server.sendall(data)

    def answer(self) -> None:
        """Pass answers back at the link's rate."""
        piece = memoryview(bytearray(PIECE))
        while count := self.server.recv_into(piece):
            if self.fault == "reset":
                return
            self.link.wait(count)
            if self.fault == "cut":
                self.client.sendall(piece[: count // 2])
                return
            self.client.sendall(piece[:count])

    def run(self, latency: float, failing: float) -> None:
        """Pass on until either side ends."""
        back = threading.Thread(target=self._until_closed, args=(self.answer,), daemon=True)
        back.start()
        self._until_closed(lambda: self.ask(latency, failing))
        back.join()
        self.client.close()
        self.server.close()

    def _until_closed(self, work: Callable[[], None]) -> None:
        with suppress(OSError):  # the other side has gone
            work()
        for side in (self.client, self.server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Open the gate."""
    port, rate, latency, failing = (float(word) for word in sys.argv[1:])
    link, listener = Link(rate), socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    while True:
        passage = Passage(listener.accept()[0], int(port), link)
        threading.Thread(target=passage.run, args=(latency, failing), daemon=True).start()


if __name__ == "__main__":
    main()
