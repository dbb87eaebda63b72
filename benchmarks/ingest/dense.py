r"""A dense job on a local disk, store written, against merely decoding the same chunks.

The job is the phantom's own (patches and cubes around every synapse), by as many threads as there
are cores. `reading only` judges nothing and writes nothing. `decode only` decodes, from memory, the
chunks that the job reads, once a block, on as many threads. CloudVolume reads the cubes one by one
and writes nothing.

Example:
    python benchmarks/ingest/dense.py --phantom runs/dense --size 1024 1024 160 --synapses 600
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cloudvolume import CloudVolume

from ingest.dataset import Layout
from ingest.job.job_config import JobConfig
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run.blocks import run_dataset
from ingest.volume.geometry import Box
from ingest.volume.open import load_info, load_scale, open_volume
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import Decoder, Voxels, decode
from ingest.volume.ranges.chunk_grid import Chunk
from ingest.volume.ranges.compression import decompress
from ingest.volume.ranges.precomputed import ShardedSource
from ingest.volume.ranges.shard_index import Sharding
from ingest.volume.sample_boxes import boxes_of


@dataclass(frozen=True)
class Result:
    """One way's run."""

    name: str
    cubes: int
    seconds: float
    cpu_seconds: float


def main() -> None:
    """Make the phantom if need be, run all three ways, print one table."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--phantom", type=Path, required=True, help="made if it is not there")
    parser.add_argument("--size", nargs=3, default=["1024", "1024", "160"])
    parser.add_argument("--synapses", default="600")
    parser.add_argument("--cloudvolume-num", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many is printed")
    options = parser.parse_args()
    if not options.phantom.exists():
        shape = ["--size", *options.size, "--synapses", options.synapses]
        command = [sys.executable, "-m", "ingest", "phantom", str(options.phantom), *shape]
        subprocess.run(command, check=True)
    job = load_job(options.phantom / "ingest.yaml")
    with tempfile.TemporaryDirectory(dir=options.phantom.parent) as folder:
        rounds = [compare(job, Path(folder) / str(n), options) for n in range(options.rounds)]
    report([min(runs, key=lambda run: run.seconds) for runs in zip(*rounds, strict=True)])


def compare(job: JobConfig, out: Path, options: argparse.Namespace) -> list[Result]:
    """Run each way once."""
    document, _ = plan_dataset(job, out)
    plan = pd.read_parquet(Layout(out).plan_table)
    boxes, blocks = cube_boxes(job, plan), list(block_boxes(job, plan))
    stored = list(stored_chunks(job, plan))
    info = load_info(job.volume, saved=False)
    volume = CloudVolume(
        f"file://{job.volume.path}", info=json.loads(info.text), progress=False, provenance={}
    )

    def one_by_one() -> None:
        for box in boxes[: options.cloudvolume_num]:
            (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
            np.asarray(volume[x0:x1, y0:y1, z0:z1])

    def run() -> None:
        run_dataset(out, scheduler="threads", num_workers=num_cores(), task=None)

    reader = open_volume(job.volume, 0, concurrency=job.cost.concurrency)

    def read() -> None:
        for block in blocks:
            for _ in reader.read_many(block):
                pass

    print(
        f"{len(plan)} cubes, {document.num_blocks} blocks, {len(stored)} chunk reads, "
        f"{document.prediction.store_bytes / 1e6:.0f} MB to write"
    )
    return [
        measure("ours, store written", len(plan), run),
        measure("ours, reading only", len(plan), read),
        measure("decode only", len(plan), lambda: decode_all(stored)),
        measure("CloudVolume, no store", options.cloudvolume_num, one_by_one),
    ]


def measure(name: str, cubes: int, run: Callable[[], Any]) -> Result:
    """Time a run, by the clock and by the cores."""
    before, began = _cpu_seconds(), time.perf_counter()
    run()
    return Result(name, cubes, time.perf_counter() - began, _cpu_seconds() - before)


def cube_boxes(job: JobConfig, plan: pd.DataFrame) -> list[Box]:
    """Return the cubes' boxes."""
    view = job.samples.views["cube"]
    return boxes_of(plan, view, load_scale(job.volume, view.mip, saved=False).voxel_size_nm)


def block_boxes(job: JobConfig, plan: pd.DataFrame) -> Iterator[list[Box]]:
    """Yield the boxes of each block's images, all of one scale."""
    views = job.samples.views.values()
    size = load_scale(job.volume, 0, saved=False).voxel_size_nm
    for _, samples in plan.groupby("block"):
        yield [box for view in views for box in boxes_of(samples, view, size)]


def stored_chunks(job: JobConfig, plan: pd.DataFrame) -> Iterator[tuple[Chunk, bytes]]:
    """Yield each chunk that the job reads, once a block, as it is stored."""
    fetcher, info = Fetcher(job.volume.path), load_info(job.volume, saved=False)
    scale = load_scale(job.volume, 0, saved=False)
    assert isinstance(scale.grid.sharding, Sharding)
    decoder = Decoder(encoding=scale.encoding, where=job.volume.path)
    source = ShardedSource(info.scales[0].key, decoder, scale.grid.sharding, fetcher, 0)
    for boxes in block_boxes(job, plan):
        for chunk in scale.grid.chunks(boxes):
            (request,) = source.locate([chunk]).requests
            (piece,) = request.pieces
            assert piece.stop is not None
            data = fetcher.range(request.name, piece.start, piece.stop)
            assert data is not None
            yield chunk, bytes(data)


def decode_all(stored: list[tuple[Chunk, bytes]]) -> None:
    """Decode chunks on all cores and drop them."""
    with ThreadPoolExecutor(num_cores()) as pool:
        for _ in pool.map(_decoded, stored):
            pass


def _decoded(stored: tuple[Chunk, bytes]) -> Voxels:
    chunk, data = stored
    raw = decompress(data, "gzip", limit_bytes=int(np.prod(chunk.box.shape)))
    return decode(raw, "raw", chunk.box.shape)


def report(results: list[Result]) -> None:
    """Print the table."""
    ours = results[0]
    print(f"{'way':24}{'cubes':>6}{'cubes/s':>9}{'ours is':>9}{'CPU ms/cube':>13}{'ours is':>9}")
    for result in results:
        rate, cpu = result.cubes / result.seconds, result.cpu_seconds / result.cubes
        times, cpu_times = ours.cubes / ours.seconds / rate, cpu / (ours.cpu_seconds / ours.cubes)
        print(
            f"{result.name:24}{result.cubes:6}{rate:9.1f}{times:8.2f}x{cpu * 1e3:13.1f}"
            f"{cpu_times:8.2f}x"
        )


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
