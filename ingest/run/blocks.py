"""Run a plan's blocks: with Dask here or anywhere, or as one task of an array."""

import errno
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import joblib
import pandas as pd

from ingest.dataset import Layout
from ingest.plan.plan_record import Plan, read_plan
from ingest.run.block import BlockResult, planned_samples
from ingest.run.schedulers import Blocks, finished_blocks, finished_here
from ingest.run.self_test import check_masks, check_voxels
from ingest.tables.identity import table_identity
from ingest.volume.masks import mask_scale
from ingest.volume.open import open_volume, reference_reader, volume_identity
from shards.cli.progress import progress
from shards.contract.sample_store import remove_leftovers
from shards.storage.atomic import FULL
from shards.storage.locks import shared_writer, sole_writer
from shards.stream.order import even_split

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


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """The outcome of a run: the blocks it ran, of how many, in what time."""

    results: tuple[BlockResult, ...]
    num_blocks: int
    seconds: float

    def total(self, item: str) -> int:
        """Return the sum of one number of the blocks, as `requests`."""
        return sum(getattr(result, item) for result in self.results)

    def __str__(self) -> str:
        if not self.results:
            return f"all {self.num_blocks} blocks were done already"
        kept, rejected = self.total("kept"), self.total("rejected")
        return (
            f"{len(self.results)} of {self.num_blocks} blocks run in {self.seconds:.1f} s: "
            f"{kept} samples kept, {rejected} rejected, {self.total('bytes') / 1e6:.0f} MB "
            f"written, {(kept + rejected) / self.seconds:.1f} samples/s"
        )


def run_dataset(
    root: Path, *, scheduler: str, num_workers: int | None, task: Task | None
) -> RunSummary:
    """Run the blocks of a plan that are not done.

    `scheduler` is threads, processes, slurm or the address of a Dask scheduler. A block that
    fails does not stop the others; they are named at the end.
    """
    layout = Layout(root)
    plan = read_plan(layout)
    lock = sole_writer(root) if task is None else shared_writer(root, task.name)
    with plain_disk_errors(root), lock:
        if task is None:  # nobody else is writing; after tasks of an array, `finish` does this
            remove_leftovers(root)
        index, count = (0, 1) if task is None else (task.index, task.count)
        blocks = even_split(plan.num_blocks, index=index, count=count)
        todo = [block for block in blocks if not layout.block(block).exists()]
        if not todo:
            return RunSummary(results=(), num_blocks=len(blocks), seconds=0.0)
        check_sources(plan)
        self_test(layout, plan)
        start = time.monotonic()
        finished = (
            finished_blocks(root, todo, scheduler, num_workers or joblib.cpu_count())
            if task is None
            else finished_here(root, todo)
        )
        results = tuple(_collect(plan, todo, finished))
        seconds = time.monotonic() - start
        return RunSummary(results=results, num_blocks=len(blocks), seconds=seconds)


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
                masks = mask_scale(plan.job, size)
                with closing(masks.open(concurrency=plan.job.cost.concurrency)) as segmentation:
                    check_masks(segmentation, samples, view, plan.job, size)


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
        numbers = ", ".join(map(str, sorted(failed)[:5])) + (", …" if len(failed) > 5 else "")
        raise RuntimeError(
            f"{len(failed)} of {len(blocks)} blocks failed ({numbers}), the "
            f"others are done; block {first}: {failed[first]}; run the same command to try again"
        )
    return results


def _reading_note(results: list[BlockResult]) -> str:
    requests, read = sum(r.requests for r in results), sum(r.bytes_read for r in results)
    written = sum(r.bytes for r in results)
    return f"{requests} requests, {read / 1e6:.0f} MB read, {written / 1e6:.0f} MB written"
