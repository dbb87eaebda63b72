"""Local streaming against a raw warm read and against the peers, on the same bytes.

    python benchmarks/shards/local_streaming.py --folder runs/bench --peers PATH/TO/PEERS/bin/python

Makes 1 GB of cubes and of patches, and the peers' formats from them. Then, five times over, one
epoch of each reader in turn, warm, after an epoch that is not counted; prints medians. The peers
run in processes of an environment of their own (`pip install litdata mosaicml-streaming`), each
with its best of several numbers of workers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROUNDS = 5
KINDS = {"cube": ((1, 32, 128, 128), 2048, 32), "patch": ((1, 256, 256), 16384, 256)}
PEERS = ("webdataset", "litdata", "mosaicml")


def make(folder: Path, kind: str, part: float) -> None:
    """Write a store of noise and its shards."""
    from benchmarks.shards.made_store import make_store
    from shards.pack.assign import PackOptions
    from shards.pack.write_shards import pack

    shape, count, _ = KINDS[kind]
    if not (folder / kind / "shards" / "manifest.json").exists():
        make_store(folder / kind / "store", shape, int(count * part))
        pack(folder / kind / "store", kind, str(folder / kind / "shards"), PackOptions())


def raw(folder: Path, kind: str) -> float:
    """Return GB/s of reading the tars one after the other."""
    paths = sorted((folder / kind / "shards").glob("*.tar"))
    buffer, done, start = bytearray(4 << 20), 0, time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                done += count
    return done / (time.perf_counter() - start) / 1e9


def ours(folder: Path, kind: str, threads: int) -> tuple[float, float]:
    """Return GB/s of the first epoch, with checksums, and of the second."""
    from shards.stream.shardset import open_shards
    from shards.stream.stream import Stream

    rates = []
    with (
        open_shards(str(folder / kind / "shards")) as shards,
        Stream(shards, "train", batch_size=KINDS[kind][2], num_threads=threads) as stream,
    ):
        for _ in range(2):
            rates.append(
                epoch_rate(next(stream).images.nbytes for _ in range(stream.steps_per_epoch))
            )
    return rates[0], rates[1]


def cold(folder: Path, kind: str, *, check: bool) -> float:
    """Return GB/s of a first epoch from the disk, with the checksums or without."""
    from shards.stream.shardset import ShardSet, open_shards
    from shards.stream.stream import Stream

    for path in (folder / kind / "shards").glob("*.tar"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    verified = ShardSet._verified
    if not check:
        ShardSet._verified = lambda *arguments: arguments[-1]  # type: ignore[method-assign]
    try:
        with (
            open_shards(str(folder / kind / "shards")) as shards,
            Stream(shards, "train", batch_size=KINDS[kind][2], num_threads=4) as stream,
        ):
            return epoch_rate(next(stream).images.nbytes for _ in range(stream.steps_per_epoch))
    finally:
        ShardSet._verified = verified  # type: ignore[method-assign]


def epoch_rate(sizes: Iterator[int]) -> float:
    """Return GB/s at which batches of these sizes come; the first one is start-up."""
    next(sizes)
    start = time.perf_counter()
    return sum(sizes) / (time.perf_counter() - start) / 1e9


def peer(python: Path, folder: Path, kind: str, name: str, workers: int) -> float:
    """Return GB/s of a peer's second epoch, run in its own environment."""
    script = Path(__file__).parent / "peers.py"
    command = [python, script, name, folder / kind, str(KINDS[kind][2]), str(workers)]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stderr[-2000:])
        raise RuntimeError(f"{name} with {workers} workers failed")
    return float(json.loads(done.stdout.splitlines()[-1])["gb_s"])


def measure(kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Return medians over rounds in which every reader has its turn."""
    folder = args.folder
    readers: dict[str, Callable[[], float]] = {"raw": lambda: raw(folder, kind)}
    for threads in (1, 2, 4):
        readers[f"shards, {threads} threads"] = lambda t=threads: ours(folder, kind, t)[1]
        readers[f"shards, {threads} threads, first epoch"] = lambda t=threads: ours(
            folder, kind, t
        )[0]
    readers["from disk, checksums"] = lambda: cold(folder, kind, check=True)
    readers["from disk, no checksums"] = lambda: cold(folder, kind, check=False)
    for name in PEERS if args.peers else ():
        for workers in args.workers:
            readers[f"{name}, {workers} workers"] = lambda n=name, w=workers: peer(
                args.peers, folder, kind, n, w
            )
    found: dict[str, list[float]] = {name: [] for name in readers}
    raw(folder, kind)
    for _ in range(args.rounds):
        for name, read in readers.items():
            found[name].append(read())
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--peers", type=Path, help="the python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="of peers")
    parser.add_argument("--part", type=float, default=1.0, help="of the 1 GB of samples")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    args = parser.parse_args()
    for kind in args.kinds:
        make(args.folder, kind, args.part)
        found = measure(kind, args)
        print(f"\n{kind} {KINDS[kind][0]} uint8, medians of {args.rounds}")
        for name, rate in found.items():
            print(f"  {name:46s} {rate:7.2f} GB/s   {rate / found['raw']:5.2f} of raw")


if __name__ == "__main__":
    main()
