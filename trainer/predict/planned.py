"""A planned data set, read for prediction: images go from the volume to a model, none is stored.

The only module of `trainer` that knows `ingest`: the same reader, self-test and quality control as
`ingest run`.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.dataset import BLOCKS_A_ROW_GROUP, REJECT_COLUMNS, Layout, image_specs, write_block
from ingest.plan.plan_record import Plan, read_plan
from ingest.run.block import opened_here, planned_samples, read_samples
from ingest.run.blocks import Task, check_sources, self_test
from shards.contract.schema import SPLITS, ImageSpec
from shards.storage.atomic import sha256_of_file
from shards.stream.order import even_split
from shards.workers.threads import Pool, result_of

Images = npt.NDArray[np.uint8]
MOST_PARTS = 256  # of a small plan; in a large one a part is a row group of plan.parquet


@dataclass(frozen=True, slots=True)
class BlockImages:
    """A block as a model takes it: the samples to predict, their images by view, and the rest."""

    samples: pd.DataFrame
    images: dict[str, Images]  # (n, c, [z], y, x)
    rejects: pd.DataFrame  # with `reason`
    planned: int  # samples of the block, of all splits


class PlannedData:
    """The planned data set in a folder; its blocks make up parts, numbered from 0."""

    def __init__(self, root: Path, splits: Sequence[str] = SPLITS) -> None:
        self.layout, self.splits = Layout(root), tuple(splits)
        self.plan: Plan = read_plan(self.layout)
        self.plan_sha256 = sha256_of_file(self.layout.plan_json)
        self.images: dict[str, ImageSpec] = image_specs(self.plan.job, self.plan.voxel_size_nm)
        self.class_names = self.plan.job.labels.class_names
        self.blocks_per_part = min(
            BLOCKS_A_ROW_GROUP, max(1, -(-self.plan.num_blocks // MOST_PARTS))
        )
        for split in splits:
            if split not in SPLITS:
                raise ValueError(f"no split {split!r}; a plan has {', '.join(SPLITS)}")

    @property
    def num_parts(self) -> int:
        """Number of parts that the blocks make up."""
        return -(-self.plan.num_blocks // self.blocks_per_part)

    def share(self, *, index: int, count: int, rank: int, ranks: int) -> tuple[str, range]:
        """Return the name and the parts of a rank of task `index` of an array of `count`."""
        Task(index=index, count=count)  # or it says what does not fit
        task = Task(index=index * ranks + rank, count=count * ranks)
        return task.name, even_split(self.num_parts, index=task.index, count=task.count)

    def blocks(self, part: int) -> range:
        """Return the blocks of a part."""
        first = part * self.blocks_per_part
        return range(first, min(first + self.blocks_per_part, self.plan.num_blocks))

    def num_samples(self, parts: Sequence[int]) -> int:
        """Return the number of planned samples in parts, of all splits."""
        size, total = self.plan.job.samples_per_block, self.plan.num_samples
        blocks = [block for part in parts for block in self.blocks(part)]
        return sum(min(size, total - block * size) for block in blocks)

    def check(self) -> None:
        """Refuse a volume or tables that changed since the plan, and what `ingest run` would."""
        check_sources(self.plan)
        self_test(self.layout, self.plan)

    def read(
        self, parts: Sequence[int], views: Sequence[str], *, num_threads: int
    ) -> Iterator[tuple[int, BlockImages]]:
        """Yield the blocks of parts in order, as (part, block); threads read the next ones.

        At most `num_threads` + 2 blocks are in memory. A block that cannot be read is a
        `ValueError` that names it.
        """
        blocks = iter([(part, block) for part in parts for block in self.blocks(part)])
        ahead: deque[tuple[int, int, Future[BlockImages]]] = deque()
        with Pool(num_threads, "block") as pool:
            while True:
                while len(ahead) <= num_threads and (following := next(blocks, None)):
                    ahead.append((*following, pool.submit(self._read, following[1], views)))
                if not ahead:
                    return
                part, block, future = ahead.popleft()
                try:
                    images = result_of(future)
                except (ValueError, OSError, RuntimeError) as error:
                    raise ValueError(
                        f"{self.layout.root}: block {block} cannot be read: {error}; run the same "
                        "command to try again, parts that are there are kept"
                    ) from error
                yield part, images

    def check_rejects(self, num_predicted: int, reasons: Counter[str]) -> None:
        """Refuse a larger share of rejects, counted by reason, than the job allows."""
        total = num_predicted + reasons.total()
        if total and reasons.total() / total > self.plan.job.qc.max_reject_fraction:
            counts = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
            raise ValueError(
                f"{self.layout.root}: {reasons.total() / total:.0%} of {total} samples were "
                f"rejected ({counts}), the others are predicted; check resolution and positions, "
                "or raise qc.max_reject_fraction and plan again"
            )

    def _read(self, block: int, views: Sequence[str]) -> BlockImages:
        opened = opened_here(str(self.layout.root), self.plan_sha256)
        planned = planned_samples(self.layout, self.plan, block)
        samples = planned[planned.split.isin(self.splits)].reset_index(drop=True)
        read = read_samples(samples, opened)
        return BlockImages(
            samples=read.samples[read.kept].reset_index(drop=True),
            images={view: read.images[view][read.kept] for view in views},
            rejects=read.samples[~read.kept],
            planned=len(planned),
        )


def write_rejects(path: Path, blocks: Sequence[pd.DataFrame]) -> None:
    """Write the rejects of a part, in the columns of rejects.parquet; none leave no file."""
    frame = pd.concat(blocks, ignore_index=True)
    if len(frame):
        write_block(path, frame, REJECT_COLUMNS)
    else:
        path.unlink(missing_ok=True)
