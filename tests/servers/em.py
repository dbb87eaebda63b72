"""An HTTP server of a volume of minnie65's geometry whose voxels are a formula of x, y, z.

Shard indices, minishard indices and chunks are made when they are asked for, so that 117 TB fit in
a few megabytes. Mip 0 is raw with gzip data, mip 1 JPEG. Faults and latency are injected on demand.

Example, in a shell (it prints its address, and ends when its standard input does):

    python -m tests.servers.em --port 8080 --latency-ms 20 --faults '{"503": 0.05, "flip": 0.05}'

and in Python:

    with EmServer(latency_ms=20) as server:
        server.url, server.stats(), server.voxels(0, start_zyx, shape_zyx)
        server.configure(faults={"reset": 0.1}, missing=0.01, record=True)

Faults, as probabilities of a request: `429`, `503`, `reset` (the connection breaks), `truncate`
(half the body, then the connection closes), `flip` (one bit, inside the data of a chunk).
"""

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from tests.servers.em_volume import MINISHARDS, SHARD_INDEX_BYTES, Bytes, Scale, Triple, scales

FOLDER = "/em"


@dataclass
class State:
    """What all connections share."""

    latency_ms: float = 0.0
    faults: dict[str, float] = field(default_factory=dict)
    record: bool = False  # keep (path, start, stop) of each answer of data, faulty ones not
    seed: int = 0
    missing: float = 0.0
    plain: bool = False

    def __post_init__(self) -> None:
        self.scales = {scale.key: scale for scale in scales(plain=self.plain)}
        self.reset()

    def reset(self) -> None:
        for scale in self.scales.values():
            scale.set_missing(self.missing)
        self.counts: Counter[str] = Counter()
        self.log: list[tuple[str, int, int]] = []
        self.rng = random.Random(self.seed)

    def info(self) -> bytes:
        found = [scale.info() for scale in self.scales.values()]
        head = {"data_type": "uint8", "num_channels": 1, "type": "image", "scales": found}
        return json.dumps(head).encode()

    def draw_fault(self) -> str | None:
        kinds = [*self.faults, None]
        weights = list(self.faults.values())
        return self.rng.choices(kinds, [*weights, 1 - sum(weights)])[0]


class Connection(asyncio.Protocol):
    """One client: requests one after the other, answered after the latency, without blocking."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        method, path, _ = first.split(" ")
        if path.startswith(FOLDER):
            delay = self.state.latency_ms / 1e3
            loop = asyncio.get_running_loop()
            loop.call_later(delay, self.answer, method, path.partition("?")[0], headers)
        else:
            self.control(method, path, rest[:length])

    def control(self, method: str, path: str, body: bytes) -> None:
        state = self.state
        if method == "POST":
            for name, value in json.loads(body).items():
                setattr(state, name, value)
            state.reset()
        found = state.log if path == "/log" else dict(state.counts)
        self.send(200, [memoryview(json.dumps(found).encode())], counted=False)

    def answer(self, method: str, path: str, headers: dict[str, str]) -> None:
        state = self.state
        state.counts["requests"] += 1
        fault = state.draw_fault() if method == "GET" else None
        if fault in ("429", "503"):
            state.counts[fault] += 1
            self.send(int(fault), [])
        elif fault == "reset":
            state.counts[fault] += 1
            self.transport.abort()
        elif path == FOLDER + "/info":
            self.send(200, [memoryview(state.info())], method=method)
        else:
            self.answer_shard(method, path, headers.get("range", ""), fault)

    def answer_shard(self, method: str, path: str, asked: str, fault: str | None) -> None:
        key, _, name = path.removeprefix(FOLDER + "/").partition("/")
        scale = self.state.scales.get(key)
        try:
            shard = int(name.removesuffix(".shard"), 16)
        except ValueError:
            scale = None
        if scale is None or not 0 <= shard < 1 << scale.shard_bits:
            self.send(404, [])
            return
        if not any(scale.shard_index(shard)):
            self.send(404, [])
            return
        size = SHARD_INDEX_BYTES + MINISHARDS * scale.slot_bytes
        if method == "HEAD":
            self.send(200, [], method=method, length=size)
            return
        begin, _, end = asked.removeprefix("bytes=").partition("-")
        start, stop = int(begin or 0), min(int(end or size - 1) + 1, size)
        pieces, is_data = scale.read(shard, start, stop)
        kind = "data" if is_data else "shard_index" if start == 0 else "minishard_index"
        if fault == "flip" and is_data:
            self.state.counts[fault] += 1
            pieces = [self.flip(pieces)]
        elif fault == "truncate":
            self.state.counts[fault] += 1
        elif self.state.record:
            self.state.log.append((path, start, stop))
        self.state.counts[kind] += 1
        extra = f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n"
        self.send(206, pieces, extra=extra, truncate=fault == "truncate")

    def flip(self, pieces: list[memoryview]) -> memoryview:
        data = bytearray(b"".join(pieces))
        data[self.state.rng.randrange(len(data))] ^= 1 << self.state.rng.randrange(8)
        return memoryview(data)

    def send(
        self,
        status: int,
        pieces: list[memoryview],
        *,
        method: str = "GET",
        length: int | None = None,
        extra: str = "",
        truncate: bool = False,
        counted: bool = True,
    ) -> None:
        total = sum(len(piece) for piece in pieces) if length is None else length
        head = (
            f"HTTP/1.1 {status} {'OK' if status < 300 else 'Error'}\r\nContent-Length: {total}\r\n"
            f'ETag: "1"\r\nAccept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n'
            f"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n{extra}\r\n"
        )
        body = [] if method == "HEAD" else pieces
        if truncate:
            body = [memoryview(b"".join(pieces))[: total // 2]]
        if counted:
            self.state.counts["bytes"] += sum(len(piece) for piece in body)
        self.transport.writelines([head.encode(), *body])
        if truncate:
            self.transport.close()


class EmServer:
    """The server in a process of its own; a context manager.

    `plain`: chunks of mip 0 are gzip without compression. Settings are those of `configure`.
    """

    def __init__(self, *, plain: bool = False, **settings: Any) -> None:
        self._plain, self._settings = plain, settings
        self._scales = scales(plain=plain)

    def __enter__(self) -> Self:
        command = [
            sys.executable,
            "-m",
            __name__,
            "--port",
            "0",
            *(["--plain"] if self._plain else []),
        ]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        self._root = self._process.stdout.readline().strip()
        assert self._root, "the EM server ended at once; its error is above"
        self.url, self.pid = self._root + FOLDER, self._process.pid
        self.configure(**self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=10)

    def configure(self, **settings: Any) -> None:
        """Set fields of `State`; counts start again from 0."""
        for scale in self._scales:
            scale.set_missing(settings.get("missing", scale.missing))
        self._call("/control", json.dumps(settings).encode())

    def stats(self) -> dict[str, int]:
        """Return requests, bytes, and counts by kind of answer and of fault."""
        return Counter(self._call("/stats"))

    def log(self) -> list[tuple[str, int, int]]:
        """Return (path, start, stop) of all answers since `record` was set."""
        return [(path, start, stop) for path, start, stop in self._call("/log")]

    def voxels(self, mip: int, start_zyx: Triple, shape_zyx: Triple) -> Bytes:
        """Return what the volume holds in a box."""
        return self._scales[mip].voxels(start_zyx, shape_zyx)

    def scale(self, mip: int) -> Scale:
        """Return a scale, to know which chunks exist."""
        return self._scales[mip]

    def _call(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(self._root + path, data=body, timeout=60) as answer:
            return json.load(answer)


async def serve(state: State, port: int) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=512)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, lambda: ended.set() if not sys.stdin.readline() else None)
    host, bound = server.sockets[0].getsockname()[:2]
    print(f"http://{host}:{bound}", flush=True)
    await ended.wait()


def main() -> None:
    """Read the command line and serve."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--port", type=int, default=8080, help="0: any free one")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--faults", type=json.loads, default={}, help="JSON: kind -> probability")
    parser.add_argument("--missing", type=float, default=0.0, help="share of chunks not stored")
    parser.add_argument("--plain", action="store_true", help="mip 0: gzip without compression")
    options = vars(parser.parse_args())
    port = options.pop("port")
    asyncio.run(serve(State(**options), port))


if __name__ == "__main__":
    main()
