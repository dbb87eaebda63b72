r"""Cubes a second over HTTP around real synapses: our reader, its bounds, and two others.

The volume is the EM stand-in server's, of minnie65's geometry; each request waits 20 ms. Bounds:
the bare client fetches the byte ranges that our reader fetched, in that order, and drops them;
`decode only` decodes as many chunks from memory, with one thread a core; `fetch and decode` does
what both do and nothing else. `least` is what any reader must do that reads each index once and
each chunk once, joining chunks that lie side by side. Then ours again, with faults of one kind and
of all. Server and client share the machine, so that core milliseconds of both are told.

Example:
    python benchmarks/ingest/remote_volume.py \
        --synapses ../shared/data/minnie65_ei_synapses.parquet \
        --tensorstore-python ../tensorstore-venv/bin/python
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import obstore
import pandas as pd
import psutil
from cloudvolume import CloudVolume

from ingest.job.image_config import VolumeConfig
from ingest.volume.geometry import Box, Ints, box_at, box_starts, flip_triple, inside
from ingest.volume.open import load_info
from ingest.volume.ranges.byte_ranges import Fetcher, open_store
from ingest.volume.ranges.chunk_grid import Grid
from ingest.volume.ranges.coalesce import joined
from ingest.volume.ranges.compression import decompress
from ingest.volume.ranges.precomputed import precomputed_volume
from ingest.volume.ranges.shard_index import Sharding
from ingest.volume.scale import scale_from_info
from ingest.volume.volume_info import VolumeInfo
from shards.contract.overlap import voxels_of
from shards.storage.patience import Link
from tests.servers.em import EmServer

Faults = dict[str, float] | None
Range = tuple[str, int, int]  # path, first byte, byte behind the last
SIZE = (32, 128, 128)
POSITION_NM = (4.0, 4.0, 40.0)
FAULTS = ("503", "reset", "truncate", "flip")
MAX_CHUNK_BYTES = 1 << 26
FEWEST_DATA_BYTES = 1 << 16  # of a range of chunks; indices are shorter


@dataclass(frozen=True)
class Result:
    """One client's run."""

    name: str
    cubes: int
    seconds: float
    requests: int
    mbytes: float
    client_s: float = np.nan  # of processor time
    server_s: float = np.nan

    @property
    def rate(self) -> float:
        """Cubes a second."""
        return self.cubes / self.seconds


def main() -> None:
    """Run all clients on both choices of cubes and print one table for each."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--synapses", type=Path, required=True)
    parser.add_argument("--num", type=int, default=2000, help="cubes")
    parser.add_argument("--cloudvolume-num", type=int, default=100, help="cubes for CloudVolume")
    parser.add_argument("--tensorstore-python", help="a Python that has tensorstore")
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--only", nargs="*", default=["neighbors", "scattered"])
    parser.add_argument("--faults", type=float, default=0.05, help="share of requests that fail")
    parser.add_argument("--plain", action="store_true", help="gzip without compression")
    parser.add_argument("--rounds", type=int, default=1, help="the best of so many is printed")
    options = parser.parse_args()
    with EmServer(plain=options.plain) as server:
        info = load_info(VolumeConfig(path=server.url), saved=False)
        grid = scale_from_info(info, 0, where=server.url).grid
        for name in options.only:
            starts = cube_starts(options.synapses, grid, options.num, scattered=name == "scattered")
            print(f"\n{name}: {len(starts)} cubes of {SIZE}, {options.latency_ms:g} ms a request")
            compare(Bench(server, info, starts, options))


@dataclass(frozen=True)
class Bench:
    """What all clients share."""

    server: EmServer
    info: VolumeInfo
    starts: Ints  # (n, 3), z, y, x
    options: argparse.Namespace

    def warm_up(self) -> None:
        """Let the server make the indices that it will be asked for: that is not what is timed."""
        self.server.configure(latency_ms=0, faults={}, record=False)
        volume = precomputed_volume(Fetcher(self.server.url), self.info, 0)
        volume.stored_sizes(self.boxes())
        volume.close()

    def boxes(self) -> list[Box]:
        return [box_at(start, SIZE) for start in self.starts]

    def measure(
        self,
        name: str,
        cubes: int,
        run: Callable[[], float | None],
        faults: Faults = None,
    ) -> Result:
        """Run one client against a server that counts from 0."""
        server = psutil.Process(self.server.pid)
        settings = {"latency_ms": self.options.latency_ms, "faults": faults or {}}
        self.server.configure(record=name == "ours", **settings)
        before = sum(server.cpu_times()[:2]), sum(os.times()[:4])
        began = time.perf_counter()
        seconds = run() or time.perf_counter() - began
        server_s, client_s = sum(server.cpu_times()[:2]), sum(os.times()[:4])
        counts = self.server.stats()
        return Result(
            name,
            cubes,
            seconds,
            counts["requests"],
            counts["bytes"] / 1e6,
            client_s - before[1],
            server_s - before[0],
        )


def compare(bench: Bench) -> None:
    """Run every client, print the table and what is demanded of it."""
    cubes = len(bench.starts)
    bench.warm_up()
    rounds = []
    for _ in range(bench.options.rounds):
        ours = bench.measure("ours", cubes, partial(read_ours, bench, check_every=0))
        ranges = bench.server.log()
        results = [
            ours,
            bench.measure("bare client", cubes, partial(drain, bench, ranges, decode=False)),
            bench.measure("decode only", cubes, partial(decode_only, bench, ranges)),
            bench.measure("fetch and decode", cubes, partial(drain, bench, ranges, decode=True)),
        ]
        if bench.options.tensorstore_python:
            results.append(bench.measure("tensorstore", cubes, partial(read_tensorstore, bench)))
        few = bench.options.cloudvolume_num
        results.append(bench.measure("CloudVolume", few, partial(read_cloudvolume, bench, few)))
        share = bench.options.faults
        kinds = {kind: {kind: share} for kind in FAULTS}
        kinds["any kind"] = dict.fromkeys(FAULTS, share / len(FAULTS))
        kinds["each kind"] = dict.fromkeys(FAULTS, share)
        for name, faults in kinds.items():
            read = partial(read_ours, bench, check_every=10)
            label = f"ours, {share:.0%} {name}"
            results.append(bench.measure(label, cubes, read, faults=faults))
        rounds.append(results)
    best = [min(runs, key=lambda run: run.seconds) for runs in zip(*rounds, strict=True)]
    report(best, least(bench))


def read_ours(bench: Bench, *, check_every: int) -> float:
    """Read all cubes with the ranged reader; return its seconds.

    With `check_every`, so many are kept and, after the clock, compared voxel by voxel.
    """
    fetcher = Fetcher(bench.server.url, concurrency=bench.options.concurrency)
    volume = precomputed_volume(fetcher, bench.info, 0)
    boxes, kept = bench.boxes(), {}
    began = time.perf_counter()
    for number, image in enumerate(volume.read_many(boxes)):
        assert image is not None
        if check_every and number % check_every == 0:
            kept[number] = image
    seconds = time.perf_counter() - began
    volume.close()
    for number, image in kept.items():
        expected = bench.server.voxels(0, boxes[number].start, SIZE)
        assert np.array_equal(image[0], expected), boxes[number]
    return seconds


def drain(bench: Bench, ranges: Sequence[Range], *, decode: bool) -> None:
    """Fetch byte ranges and drop them, or first decode as many chunks as are in them."""
    store = open_store(Link(bench.server.url.removesuffix("/em")))
    scale = bench.server.scale(0)

    def get(item: Range) -> None:
        path, start, stop = item
        memoryview(obstore.get_range(store, path.strip("/"), start=start, end=stop))
        for chunk in range(num_chunks(bench, item) if decode else 0):
            decompress(scale.payloads[(start + chunk) % scale.variants], "gzip", MAX_CHUNK_BYTES)

    with ThreadPoolExecutor(bench.options.concurrency) as pool:
        for _ in pool.map(get, ranges):
            pass


def decode_only(bench: Bench, ranges: Sequence[Range]) -> None:
    """Decode as many chunks as are in the ranges, from memory, on all cores."""
    scale = bench.server.scale(0)
    count = sum(num_chunks(bench, item) for item in ranges)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(
            lambda n: decompress(scale.payloads[n % scale.variants], "gzip", MAX_CHUNK_BYTES),
            range(count),
        ):
            pass


def num_chunks(bench: Bench, item: Range) -> int:
    """Return how many chunks a range holds: all are of nearly one length."""
    length = item[2] - item[1]
    mean = float(bench.server.scale(0).payload_sizes.mean())
    return round(length / mean) if length > FEWEST_DATA_BYTES else 0


def read_tensorstore(bench: Bench) -> float:
    """Read all cubes with tensorstore in a process of its own; return its seconds."""
    job = {
        "kvstore": bench.server.url + "/",
        "starts_xyz": bench.starts[:, ::-1].tolist(),
        "size_xyz": SIZE[::-1],
    }
    peer = str(Path(__file__).parent / "peer_tensorstore.py")
    command = [bench.options.tensorstore_python, peer]
    done = subprocess.run(command, input=json.dumps(job), stdout=-1, text=True, check=True)
    return float(json.loads(done.stdout)["seconds"])


def read_cloudvolume(bench: Bench, count: int) -> None:
    """Read the first cubes one by one with one CloudVolume."""
    url = "precomputed://" + bench.server.url
    volume = CloudVolume(
        url, mip=0, info=json.loads(bench.info.text), progress=False, cache=False, provenance={}
    )
    for z, y, x in bench.starts[:count].tolist():
        np.asarray(volume[x : x + SIZE[2], y : y + SIZE[1], z : z + SIZE[0]])


def least(bench: Bench) -> Result:
    """Return the least requests and bytes that the cubes need, by arithmetic."""
    grid = scale_from_info(bench.info, 0, where=bench.server.url).grid
    assert isinstance(grid.sharding, Sharding)
    codes = np.unique(
        np.concatenate([c for _, c in grid.touched(bench.starts + np.array(SIZE) // 2, SIZE)])
    )
    minishards = grid.sharding.groups(codes)
    numbers = np.unique(minishards)
    indices = grid.sharding.index_reads(numbers, 0)
    requests = joined(minishards.astype(np.int64), codes.astype(np.int64), 0).ranges
    scale = bench.server.scale(0)
    positions = scale.positions_xyz(codes.astype(np.int64))
    data = int(scale.payload_sizes[scale.variant_of(positions)].sum())
    index = sum(len(scale.minishard(n >> 6, n & 63).index) for n in numbers.tolist())
    total = data + index + indices.num_bytes
    requests += indices.minishards + indices.shards
    return Result("least", len(bench.starts), np.nan, requests, total / 1e6)


def report(results: Sequence[Result], floor: Result) -> None:
    """Print the table."""
    first = results[0]
    print(
        f"{'client':26}{'cubes':>6}{'cubes/s':>9}{'ours is':>9}{'requests':>10}{'MB/cube':>9}"
        f"{'client ms':>11}{'server ms':>11}"
    )
    for result in (*results, floor):
        per, mb = result.requests / result.cubes, result.mbytes / result.cubes
        print(
            f"{result.name:26}{result.cubes:6}{result.rate:9.1f}{first.rate / result.rate:8.2f}x"
            f"{per:10.2f}{mb:9.3f}{result.client_s / result.cubes * 1e3:11.1f}"
            f"{result.server_s / result.cubes * 1e3:11.1f}"
        )
    print(
        f"ours against the least: requests {first.requests / floor.requests - 1:+.2%}, "
        f"bytes {first.mbytes / floor.mbytes - 1:+.2%}"
    )


def cube_starts(path: Path, grid: Grid, num: int, *, scattered: bool) -> Ints:
    """Return first voxels (n, 3) of cubes around synapses, in the order of their chunks."""
    table = pd.read_parquet(path)
    columns = [f"pre_pt_position_{axis}" for axis in "zyx"]
    points: npt.NDArray[np.float64] = table[columns].to_numpy(np.float64) * flip_triple(POSITION_NM)
    voxels = voxels_of(points, (40.0, 8.0, 8.0))
    voxels = voxels[inside(voxels, SIZE, grid.bounds)]
    voxels = voxels[np.argsort(grid.codes(grid.chunk_of(voxels)), kind="stable")]
    middle = len(voxels) // 3
    rng = np.random.default_rng(0)
    rows = (
        np.sort(rng.choice(len(voxels), num, replace=False))
        if scattered
        else slice(middle, middle + num)
    )
    return box_starts(voxels[rows], SIZE)


if __name__ == "__main__":
    main()
