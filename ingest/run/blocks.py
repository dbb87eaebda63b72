"""Run a plan's blocks: with Dask here or anywhere, or as one task of an array."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ingest.dataset import Layout, read_plan
from ingest.plan.make import table_identity
from ingest.plan.plan_record import Plan
from ingest.run.block import BlockResult, planned_samples
from ingest.run.schedulers import Blocks, finished_blocks, finished_here
from ingest.run.self_test import check_masks, check_voxels
from ingest.volume.masks import mask_scale
from ingest.volume.open import open_volume, reference_reader, volume_identity
from shards.cli.progress import progress
from shards.contract.sample_store import remove_leftovers
from shards.storage.atomic import FULL
from shards.storage.locks import shared_writer, sole_writer

REHASH_BYTES = 1 << 30  # bigger tables are compared by their size


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One task of an array: it runs its share of the blocks, in order."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"--task-index must be from 0 to --num-tasks - 1, got {self.index} of {self.count}"
            )

    @property
    def name(self) -> str:
        """Return what tells this task from the others of the array."""
        return f"{self.index}-of-{self.count}"

    def share(self, blocks: range) -> range:
        """Return this task's blocks: contiguous, and sizes differ by one at most."""
        size, extra = divmod(len(blocks), self.count)
        start = self.index * size + min(self.index, extra)
        return blocks[start : start + size + (self.index < extra)]


def run_dataset(
    root: Path, *, scheduler: str, num_workers: int | None, task: Task | None
) -> dict[str, float]:
    """Run the blocks of a plan that are not done; return what was done, in numbers.

    `scheduler` is threads, processes, slurm or the address of a Dask scheduler. A block that
    fails does not stop the others; they are named at the end.
    """
    layout = Layout(root)
    plan = read_plan(layout)
    lock = sole_writer(root) if task is None else shared_writer(root, task.name)
    with plain_disk_errors(root), lock:
        if task is None:  # nobody else is writing; after tasks of an array, `finish` does this
            remove_leftovers(root)
        blocks = range(plan.num_blocks) if task is None else task.share(range(plan.num_blocks))
        todo = [block for block in blocks if not layout.block(block).exists()]
        if not todo:
            return _summary([], 0.0, len(blocks))
        check_sources(plan)
        self_test(layout, plan)
        start = time.monotonic()
        finished: Blocks
        if task is not None:
            finished = finished_here(root, todo)
        else:
            finished = finished_blocks(root, todo, scheduler, num_workers or usable_cores())
        results = _collect(plan, todo, finished)
        return _summary(results, time.monotonic() - start, len(blocks))


def check_sources(plan: Plan) -> None:
    """Refuse to go on with data that is not what was planned on.

    A table that is gone is no obstacle: its part is in the plan.
    """
    cure = "restore it, or plan again into another folder"
    for source in plan.sources:
        if source["kind"] == "volume":
            if volume_identity(plan.job.volume, saved=False) != source:
                raise ValueError(f"{source['path']}: the volume changed since the plan; {cure}")
            continue
        path = Path(source["path"])
        if not path.is_file():
            continue
        same = path.stat().st_size == source["bytes"]
        if same and source["bytes"] <= REHASH_BYTES:
            same = table_identity(str(path)) == source
        if not same:
            raise ValueError(f"{path}: the table changed since the plan; {cure}")


def self_test(layout: Layout, plan: Plan) -> None:
    """Read a few planned boxes of every view, and refuse what cannot be right.

    Images that exist already were all read by `plan`.
    """
    if plan.job.has_images:
        return
    blocks = sorted({0, plan.num_blocks // 2, plan.num_blocks - 1})
    samples = pd.concat([planned_samples(layout, plan, block) for block in blocks])
    config = plan.job.volume
    for view in plan.job.samples.views.values():
        volume = open_volume(config, view.mip, concurrency=plan.job.cost.concurrency)
        with closing(volume):
            check_voxels(volume, reference_reader(config, view.mip), samples, view)
            if len(plan.job.samples.channels) > 1:
                size = volume.scale.voxel_size_nm
                of = mask_scale(plan.job, size)
                with closing(of.open(concurrency=plan.job.cost.concurrency)) as segmentation:
                    check_masks(segmentation, samples, view, plan.job, size)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def plain_disk_errors(root: Path) -> Iterator[None]:
    """Say in a sentence that the disk is full or closed to us, and what to do."""
    try:
        yield
    except OSError as error:
        if (what := _disk_trouble(error)) is None:
            raise
        raise RuntimeError(
            f"{error.filename or root}: {what}; then run the same command again, "
            "finished blocks are kept"
        ) from None


def _disk_trouble(error: BaseException) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    if number in FULL:
        return "the disk or quota is full: free some space"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there: choose another folder or change its rights"
    return None


def _collect(plan: Plan, blocks: list[int], finished: Blocks) -> list[BlockResult]:
    """Follow the blocks to their end; then name those that failed."""
    results: list[BlockResult] = []
    failed: dict[int, BaseException] = {}
    samples = plan.job.samples_per_block
    total = sum(min(samples, plan.num_samples - block * samples) for block in blocks)
    with closing(finished), progress("ingest", total) as advance:
        for block, outcome in finished:
            if not isinstance(outcome, BlockResult):
                if _disk_trouble(outcome):
                    raise outcome
                failed[block] = outcome
                continue
            results.append(outcome)
            advance(outcome.kept + outcome.rejected, _reading_note(results))
    if failed:
        first = min(failed)
        raise RuntimeError(
            f"{len(failed)} of {len(blocks)} blocks failed ({_numbers(sorted(failed))}), the "
            f"others are done; block {first}: {failed[first]}; run the same command to try again"
        )
    return results


def _reading_note(results: list[BlockResult]) -> str:
    requests, num_bytes = sum(r.requests for r in results), sum(r.bytes_read for r in results)
    written = sum(r.bytes for r in results)
    return f"{requests} requests, {num_bytes / 1e6:.0f} MB read, {written / 1e6:.0f} MB written"


def _numbers(blocks: list[int]) -> str:
    return ", ".join(map(str, blocks[:5])) + (", …" if len(blocks) > 5 else "")


def _summary(results: list[BlockResult], seconds: float, num_blocks: int) -> dict[str, float]:
    kept, rejected = sum(r.kept for r in results), sum(r.rejected for r in results)
    return {
        "blocks": num_blocks,
        "blocks_run": len(results),
        "kept": kept,
        "rejected": rejected,
        "bytes": sum(r.bytes for r in results),
        "requests": sum(r.requests for r in results),
        "bytes_read": sum(r.bytes_read for r in results),
        "seconds": seconds,
        "samples_per_s": (kept + rejected) / seconds if seconds else 0.0,
    }
