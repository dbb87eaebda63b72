"""Streaming over a link of limited rate and some latency, with and without failing requests.

    python benchmarks/remote.py --folder runs/bench/cube/shards

Serves the shards on loopback through a server that holds all connections together to `--rate` and
answers each request `--latency` late; then reads two epochs into a new cache, with windows of
shards, and again with `--failing` of the requests failing (503, reset, cut short, slow). Says each
epoch's share of the link and of a local epoch, and compares every byte.
"""

import argparse
import hashlib
import random
import tempfile
import threading
import time
from pathlib import Path

from shards.cache import CacheSpec
from shards.order import OrderSpec
from shards.serve import RangeHandler, serving
from shards.shardset import open_shards
from shards.stream import Stream

PIECE = 64 << 10
ORDER = OrderSpec(window_shards=2)


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


class SlowHandler(RangeHandler):
    """Sends through the link; fails as often as told."""

    link: Link
    latency = 0.0
    failing = 0.0

    def answer(self, *, with_body: bool) -> None:
        """Answer late, or not."""
        time.sleep(self.latency)
        self.fault = random.choice(("503", "reset", "cut", "slow"))
        if not self.path.endswith(".tar") or random.random() >= self.failing:
            self.fault = ""
        if self.fault == "503":
            self.send_error(503)
        else:
            super().answer(with_body=with_body)

    def send_bytes(self, path: Path, start: int, stop: int) -> None:
        """Send at the link's rate."""
        if self.fault == "slow":
            time.sleep(1.0)
        if self.fault in ("cut", "reset"):
            stop = start if self.fault == "reset" else start + (stop - start) // 2
        with path.open("rb") as file:
            file.seek(start)
            while start < stop:
                data = file.read(min(PIECE, stop - start))
                self.link.wait(len(data))
                self.wfile.write(data)
                start += len(data)
        if self.fault in ("cut", "reset"):
            self.close_connection = True
            self.connection.close()


def epochs(url: str, cache: CacheSpec | None, batch_size: int) -> tuple[list[float], str]:
    """Return seconds of two epochs and a hash of all their bytes."""
    seconds, digest = [], hashlib.sha256()
    with (
        open_shards(url, cache) as shards,
        Stream(shards, "train", batch_size=batch_size, order=ORDER, prefetch=4) as stream,
    ):
        for _ in range(2):
            start = time.perf_counter()
            for _ in range(stream.steps_per_epoch):
                digest.update(next(stream).images)
            seconds.append(time.perf_counter() - start)
    return seconds, digest.hexdigest()


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/cube/shards"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=200e6, help="bytes a second")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds a request")
    parser.add_argument("--failing", type=float, default=0.05, help="share of requests")
    args = parser.parse_args()
    size = sum(path.stat().st_size for path in args.folder.glob("train*.tar"))
    local, expected = epochs(str(args.folder), None, args.batch_size)
    print(f"local: {size / local[0] / 1e6:.0f} and {size / local[1] / 1e6:.0f} MB/s")
    for failing in (0.0, args.failing):
        settings = {"link": Link(args.rate), "latency": args.latency, "failing": failing}
        handler = type("Handler", (SlowHandler,), settings)
        with tempfile.TemporaryDirectory() as folder, serving(args.folder, handler=handler) as url:
            cache = CacheSpec(folder=Path(folder), limit_bytes=2 * size)
            seconds, found = epochs(url, cache, args.batch_size)
        print(
            f"{failing:.0%} failing: first epoch {size / seconds[0] / args.rate:.2f} of the link, "
            f"second {local[1] / seconds[1]:.2f} of local, bytes "
            f"{'right' if found == expected else 'WRONG'}"
        )


if __name__ == "__main__":
    main()
