"""One block: read its boxes, cut, judge, and write its zarr shards and then its record."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ingest.dataset import BLOCKS_A_ROW_GROUP, Layout, write_block
from ingest.job.image_config import QcConfig
from ingest.job.job_config import JobConfig
from ingest.plan.plan_record import Plan, read_plan
from ingest.qc.measure import Quality, flags, measure, reject_reason
from ingest.volume.files.image_files import read_image
from ingest.volume.masks import fill_masks, mask_scale
from ingest.volume.open import Volume, open_volume
from ingest.volume.sample_boxes import boxes_of
from shards.contract.parquet import read_row_group
from shards.contract.sample_store import open_for_write, write_rows
from shards.contract.schema import SAMPLE_COLUMNS

Images = npt.NDArray[np.uint8]

QUALITY_FIELDS = tuple(Quality.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockResult:
    """The outcome of a block."""

    block: int
    kept: int
    rejected: int
    bytes: int  # of images written
    requests: int  # to the volume, and what they carried
    bytes_read: int


@dataclass(frozen=True, slots=True)
class Block:
    """Samples as they were read: `samples` with `reason`, empty for those to keep, and `qc_flags`.

    `images` (n, c, [z], y, x) by view are the reading thread's own room: its next block overwrites
    them. Those of a sample to reject hold anything.
    """

    samples: pd.DataFrame
    images: dict[str, Images]
    quality: dict[str, list[Quality]]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Mask (n,) of the samples to keep."""
        return np.asarray(self.samples.reason == "")


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker thread keeps this between blocks: the plan, volumes by mip, room for images."""

    plan: Plan
    volumes: dict[int, Volume] = field(default_factory=dict)
    segmentations: dict[int, Volume] = field(default_factory=dict)  # for the masks of each mip
    stacks: dict[str, Images] = field(default_factory=dict)

    def volume(self, mip: int) -> Volume:
        """Return one scale, opened once."""
        if mip not in self.volumes:
            job, gap = self.plan.job, self.plan.prediction.by_mip[str(mip)].gap
            self.volumes[mip] = open_volume(
                job.volume, mip, concurrency=job.cost.concurrency, gap=gap
            )
        return self.volumes[mip]

    def segmentation(self, mip: int) -> Volume:
        """Return the segmentation that masks of a scale's voxels are cut from, opened once."""
        if mip not in self.segmentations:
            job, gap = self.plan.job, self.plan.prediction.masks[str(mip)].gap
            scale = mask_scale(job, self.volume(mip).scale.voxel_size_nm)
            self.segmentations[mip] = scale.open(concurrency=job.cost.concurrency, gap=gap)
        return self.segmentations[mip]

    def stack(self, view: str, count: int) -> Images:
        """Return room for the images of a block (n, c, [z], y, x); it holds those of the last."""
        if view not in self.stacks:
            job = self.plan.job
            shape = job.samples_per_block, *job.samples.image_shape(view)
            self.stacks[view] = np.empty(shape, dtype=np.uint8)
        return self.stacks[view][:count]

    def counted(self, name: str) -> int:
        """Return a count of all volumes so far: `requests` or `bytes` read."""
        opened = (*self.volumes.values(), *self.segmentations.values())
        return sum(volume.counts.get(name, 0) for volume in opened)


_kept = threading.local()


def run_block(root: str, plan_sha256: str, block: int) -> BlockResult:
    """Execute one block of the plan in `root`; safe to repeat, anywhere, in any order.

    `plan_sha256` is that of plan.json: a thread keeps what it opened for the next block.
    """
    return execute(Layout(Path(root)), opened_here(root, plan_sha256), block)


def opened_here(root: str, plan_sha256: str) -> Opened:
    """Return what this thread has open of the plan in `root`."""
    if getattr(_kept, "plan", None) != (root, plan_sha256):
        _kept.opened, _kept.plan = Opened(read_plan(Layout(Path(root)))), (root, plan_sha256)
    opened: Opened = _kept.opened
    return opened


def execute(layout: Layout, opened: Opened, block: int) -> BlockResult:
    """Execute one block: the record is written last, so that its presence means done."""
    job = opened.plan.job
    samples = planned_samples(layout, opened.plan, block)
    requests, bytes_read = opened.counted("requests"), opened.counted("bytes")
    read = read_samples(samples, opened)
    kept, record = read.kept, read.samples
    for name, stack in read.images.items():
        stack[~kept] = 0
        write_rows(open_for_write(layout.root, name), block * job.samples_per_block, stack)
    for name in sorted(read.images):
        for item in QUALITY_FIELDS:
            record[f"{name}_{item}"] = [getattr(one, item) for one in read.quality[name]]
    write_block(layout.block(block), record, block_columns(job))
    return BlockResult(
        block=block,
        kept=int(kept.sum()),
        rejected=int((~kept).sum()),
        bytes=sum(stack.nbytes for stack in read.images.values()),
        requests=opened.counted("requests") - requests,
        bytes_read=opened.counted("bytes") - bytes_read,
    )


def block_columns(job: JobConfig) -> dict[str, pa.DataType]:
    """Return the columns of a block's record: the sample, why it was left out, its quality."""
    columns = {**SAMPLE_COLUMNS, "reason": pa.string()}
    for name in sorted(job.samples.views):
        for item in QUALITY_FIELDS:
            whole = item == "missing_sections"
            columns[f"{name}_{item}"] = pa.int64() if whole else pa.float64()
    return columns


def planned_samples(layout: Layout, plan: Plan, block: int) -> pd.DataFrame:
    """Return the planned rows of one block, reading little else of the plan."""
    group, place = divmod(block, BLOCKS_A_ROW_GROUP)
    cure = "delete the data set and plan it again"
    table = read_row_group(layout.plan_table, group, plan.table_parts, cure=cure)
    start, size = place * plan.job.samples_per_block, plan.job.samples_per_block
    rows: pd.DataFrame = table.slice(start, size).to_pandas()
    return rows


def read_samples(samples: pd.DataFrame, opened: Opened) -> Block:
    """Read and judge the images of planned samples, a block's number of them at most."""
    job = opened.plan.job
    views = job.samples.views
    images = {name: opened.stack(name, len(samples)) for name in views}
    quality: dict[str, list[Quality]] = {name: [] for name in views}
    reasons = np.full(len(samples), "", dtype=object)
    for row, name, is_stored in _filled(samples, opened, images):
        image = images[name][row]
        if not is_stored:
            image[...] = 0
        quality[name].append(measure(image))
        reason = reject_reason(quality[name][-1], job.qc) if is_stored else "missing_data"
        reasons[row] = reasons[row] or reason
    judged = samples.assign(reason=reasons, qc_flags=_flag_texts(quality, job.qc))
    return Block(judged, images, quality)


def _filled(
    samples: pd.DataFrame, opened: Opened, images: dict[str, Images]
) -> Iterator[tuple[int, str, bool]]:
    """Fill images, and yield row, view and whether there is anything for it."""
    job = opened.plan.job
    if job.has_images:
        ((name, stack),) = images.items()
        for row, file in enumerate(samples.file):
            stack[row] = read_image(Path(job.volume.path) / file, stack.shape[1:])
            yield row, name, True
        return
    for mip in sorted({view.mip for view in job.samples.views.values()}):
        here = {name: images[name] for name, view in job.samples.views.items() if view.mip == mip}
        yield from _cutouts(samples, opened, mip, here)


def _cutouts(
    samples: pd.DataFrame, opened: Opened, mip: int, images: dict[str, Images]
) -> Iterator[tuple[int, str, bool]]:
    """Fill images out of one scale, sample by sample, so that the views of one share chunks."""
    config, volume = opened.plan.job.samples, opened.volume(mip)
    voxel_size_nm = volume.scale.voxel_size_nm
    views = [config.views[name] for name in images]
    by_view = [boxes_of(samples, view, voxel_size_nm) for view in views]
    boxes = [box for row in zip(*by_view, strict=True) for box in row]
    cubes = [
        image.reshape(len(config.channels), *view.size_zyx)
        for row in zip(*images.values(), strict=True)
        for image, view in zip(row, views, strict=True)
    ]
    if masks := config.channels[1:]:
        roots = samples[[f"{name}_root_id" for name in masks]].to_numpy().repeat(len(views), axis=0)
        parts = [cube[1:] for cube in cubes]
        fill_masks(parts, roots.tolist(), boxes, voxel_size_nm, opened.segmentation(mip))
    for number, cutout in enumerate(volume.read_many(boxes, [cube[:1] for cube in cubes])):
        row, place = divmod(number, len(views))
        yield row, list(images)[place], cutout is not None


def _flag_texts(quality: dict[str, list[Quality]], config: QcConfig) -> list[str]:
    rows = zip(*(quality[name] for name in sorted(quality)), strict=True)
    return [",".join(dict.fromkeys(f for one in row for f in flags(one, config))) for row in rows]
