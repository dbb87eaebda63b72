"""Opening a large index, and resuming anywhere in it.

    python benchmarks/shards/resume.py --folder runs/bench/large --samples 10000000

Makes the index of a shard set of so many samples once; its tars are sparse files of zeros. Then
opens it, and reads the first batch at several steps; says seconds by the clock and of processor
time (of all threads: on a busy machine the sounder figure), and the process's peak memory.
"""

import argparse
import hashlib
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import crc32c
import numpy as np
import pyarrow as pa

from shards.contract.documents import sealed_json
from shards.contract.index import IndexNotes, index_bytes
from shards.contract.schema import (
    INDEX_COLUMNS,
    ImageSpec,
    Manifest,
    PackNotes,
    ShardInfo,
    SplitInfo,
)
from shards.pack.make_manifest import class_counts
from shards.stream.order import Position
from shards.stream.shardset import open_shards
from shards.stream.stream import Stream

IMAGE = ImageSpec(shape=(1, 16, 16), dtype="uint8", channels=("em",), voxel_size_nm=(40, 8, 8))
STRIDE = 2048
PER_SHARD = 4096
BATCH = 64
CLASSES = ("a", "b")


def make(folder: Path, num_samples: int) -> None:
    """Write indices, manifest and sparse tars."""
    folder.mkdir(parents=True, exist_ok=True)
    crc = crc32c.crc32c(bytes(int(np.prod(IMAGE.shape))))
    shards = [
        _shard(folder, start, min(PER_SHARD, num_samples - start), crc)
        for start in range(0, num_samples, PER_SHARD)
    ]
    info = SplitInfo(
        num_samples=num_samples,
        num_neurons=num_samples // 20,
        class_counts=dict(sum((Counter(shard.class_counts) for shard in shards), Counter())),
        shards=tuple(shards),
    )
    manifest = Manifest(
        schema_version=1,
        class_names=CLASSES,
        image=IMAGE,
        splits={"train": info},
        mean=(0.0,),
        std=(1.0,),
        pack=PackNotes(),
        dataset={},
    )
    (folder / "manifest.json").write_bytes(sealed_json(manifest))


def _shard(folder: Path, start: int, count: int, crc: int) -> ShardInfo:
    rows = np.arange(start, start + count)
    rng = np.random.default_rng(start)
    columns = {
        "key": pa.array([f"synapse-{row:010d}" for row in rows]),
        "neuron_id": rng.integers(0, 2**60, count // 20 + 1)[(rows - start) // 20],
        "label": (rows % 3 > 0).astype(np.int16),
        "offset": (rows - start) * STRIDE,
        "length": np.full(count, int(np.prod(IMAGE.shape))),
        "crc32c": np.full(count, crc),
    }
    for name, kind in INDEX_COLUMNS.items():
        if name not in columns:
            text = pa.types.is_string(kind)
            columns[name] = pa.array(["made"] * count) if text else rng.integers(0, 2**30, count)
    arrays = [pa.array(columns[name]).cast(kind) for name, kind in INDEX_COLUMNS.items()]
    table = pa.table(arrays, schema=pa.schema(list(INDEX_COLUMNS.items())))
    stem = f"train-{start // PER_SHARD:06d}"
    index = folder / f"{stem}.index.parquet"
    index.write_bytes(index_bytes(table, IndexNotes()))
    with (folder / f"{stem}.tar").open("wb") as tar:
        tar.truncate(count * STRIDE)
    return ShardInfo(
        name=f"{stem}.tar",
        bytes=count * STRIDE,
        sha256="0" * 64,
        index_name=index.name,
        index_sha256=hashlib.sha256(index.read_bytes()).hexdigest(),
        num_samples=count,
        class_counts=class_counts(columns["label"], CLASSES),
    )


@contextmanager
def _timed(what: str) -> Iterator[None]:
    clock, processor = time.perf_counter(), time.process_time()
    yield
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(f"{what}: {clock:.2f} s, {processor:.2f} s of processor time")


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/large"))
    parser.add_argument("--samples", type=int, default=10_000_000)
    args = parser.parse_args()
    if not (args.folder / "manifest.json").exists():
        make(args.folder, args.samples)
    with open_shards(str(args.folder)) as shards:
        with _timed(f"index of {args.samples} samples opened"):
            shards.index("train")
        last = args.samples // BATCH - 1
        for step in (10, last // 10, last):
            position = Position(epoch=3, step=step)
            with (
                _timed(f"first batch at step {step}"),
                Stream(shards, "train", batch_size=BATCH, position=position) as stream,
            ):
                next(stream)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
