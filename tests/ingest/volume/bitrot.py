"""Flipped bits in a data set's files: noticed when the file is read, or without effect.

python -m tests.ingest.volume.bitrot DATASET [FLIPS]     # of each kind of file
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ingest.dataset import Layout, read_finished
from ingest.plan.plan_record import read_plan
from ingest.run.block import planned_samples
from ingest.run.finish import block_record, plan_rejects
from shards.contract.documents import to_plain
from shards.contract.sample_store import ARRAYS, check_metadata, open_store, read_dataset


def readers(out: Path) -> dict[str, Callable[[], Any]]:
    """Return what the commands read of each kind of file, by the pattern of its path."""
    layout = Layout(out)

    def plan() -> Any:
        return to_plain(read_plan(layout))

    def planned() -> Any:
        now = read_plan(layout)
        return [planned_samples(layout, now, block).to_csv() for block in range(now.num_blocks)]

    def records() -> Any:
        now = read_plan(layout)
        return [block_record(layout, now, b).to_pydict() for b in range(now.num_blocks)]

    def samples() -> Any:
        return open_store(out).samples.to_pydict()

    def metadata() -> Any:
        check_metadata(out, read_plan(layout).files)
        return samples()

    def voxels() -> Any:
        store = open_store(out)
        rows = store.samples["row"].to_pylist()
        return [store.files(view).read(rows).tobytes() for view in store.dataset.views]

    return {
        "plan.json": plan,
        "plan.parquet": planned,
        "plan-rejects.parquet": lambda: plan_rejects(layout, read_plan(layout)).to_csv(),
        "blocks/*.parquet": records,
        "dataset.json": lambda: to_plain(read_dataset(out)),
        "samples.parquet": samples,
        "rejects.parquet": lambda: read_finished(
            layout, "rejects.parquet", read_dataset(out)
        ).to_csv(),
        f"{ARRAYS}/**/zarr.json": metadata,
        f"{ARRAYS}/*/c/**/0": voxels,
    }


def flip_bits(out: Path, pattern: str, flips: int, seed: int) -> Counter[str]:
    """Flip bits of the files of one kind, one at a time; count what came of them.

    `noticed`: a `ValueError` of one line. `harmless`: the same values as before. `silent`: others.
    """
    read, rng, counts = readers(out)[pattern], np.random.default_rng(seed), Counter[str]()
    files, before = sorted(path for path in out.glob(pattern) if path.is_file()), read()
    for _ in range(flips):
        path = files[rng.integers(len(files))]
        with flipped(path, int(rng.integers(8 * path.stat().st_size))):
            counts[_outcome(read, before)] += 1
    assert read() == before
    return counts


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """Flip one bit of a file while the context lasts."""
    data = path.read_bytes()
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(data)


def _outcome(read: Callable[[], Any], before: Any) -> str:
    try:
        return "harmless" if read() == before else "silent"
    except ValueError as error:
        return "noticed" if "\n" not in str(error) else "in several lines"


if __name__ == "__main__":
    out, flips = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 150
    for pattern in readers(out):
        print(f"{pattern}: {json.dumps(flip_bits(out, pattern, flips, seed=0))}")
