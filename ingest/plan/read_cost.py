"""Cost of reading a plan: chunks, ranges, requests, bytes and time, by arithmetic.

Also decided here: over how many chunks that nobody asked for the ranges of a scale are joined. It
is the choice that `seconds` says is fastest, for the latency and bandwidth that the job states.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.job.job_config import CostConfig, JobConfig
from ingest.plan.plan_record import Prediction, Reading
from ingest.volume.geometry import Ints, Triple, box_starts
from ingest.volume.masks import MaskScale
from ingest.volume.ranges.chunk_grid import Codes, IndexReads, Layout
from ingest.volume.ranges.coalesce import GAPS, Joined, best_joined, joined
from ingest.volume.sample_boxes import centers_vx
from ingest.volume.scale import Scale, StoredSizes

Pairs = tuple[Ints, Codes]  # samples and chunks

SLICE_ROWS = 1 << 17
PAGE_BITS = 15
# Stored bytes of a voxel: gzip hardly shortens EM; JPEG as minnie65's coarser scales have it; a
# segmentation, in gzip, by rule of thumb.
BYTES_PER_VOXEL = {
    "raw": 0.8,
    "jpeg": 0.15,
    "png": 0.7,
    "tiff": 1.0,
    "array": 0.8,
    "compressed_segmentation": 0.1,
}


def predict(
    samples: pd.DataFrame,
    job: JobConfig,
    scales: Mapping[int, Scale],
    stored: Mapping[int, StoredSizes],
    segmentations: Mapping[int, tuple[MaskScale, StoredSizes | None]],
) -> Prediction:
    """Return the prediction for planned samples (with `row`, `block`), by mip and in total.

    `stored` has what is known of the volume's sizes, by mip; `segmentations`, what masks of each
    mip are cut from, and its sizes. One worker is assumed: each further one reads again the indices
    of the few minishards that it shares with another.
    """
    by_mip, masks = {}, {}
    for mip, opened in scales.items():
        scale = _as_written(opened, stored.get(mip))
        sizes = [view.size_zyx for view in job.samples.views.values() if view.mip == mip]
        under = partial(_under_images, scale=scale, sizes=sizes)
        by_mip[mip] = _reading(samples, job, scale, under, stored.get(mip))
        if mip in segmentations:
            of, known = segmentations[mip]
            of = replace(of, scale=_as_written(of.scale, known))
            under = partial(_under_masks, of=of, scale=scale, sizes=sizes)
            together = of.boxes_at_once(sizes, scale.voxel_size_nm)
            masks[mip] = _reading(samples, job, of.scale, under, known, together=together)
    readings = [*by_mip.values(), *masks.values()]
    requests = sum(reading.requests for reading in readings)
    num_bytes = sum(reading.bytes for reading in readings)
    images = sum(int(np.prod(job.samples.image_shape(view))) for view in job.samples.views)
    return Prediction(
        by_mip={str(mip): reading for mip, reading in by_mip.items()},
        masks={str(mip): reading for mip, reading in masks.items()},
        requests=requests,
        bytes=num_bytes,
        seconds=round(seconds(requests, num_bytes, job.cost), 1),
        store_bytes=images * len(samples),
    )


def predict_files(files: Iterable[str], job: JobConfig) -> Prediction:
    """Return the prediction for images that exist already, in these files."""
    sizes = [(Path(job.volume.path) / file).stat().st_size for file in files]
    (view,) = job.samples.views
    return Prediction(
        requests=len(sizes),
        bytes=sum(sizes),
        seconds=round(seconds(len(sizes), sum(sizes), job.cost), 1),
        store_bytes=int(np.prod(job.samples.image_shape(view))) * len(sizes),
    )


def seconds(requests: int, num_bytes: float, cost: CostConfig) -> float:
    """Return how long requests take that share a line and overlap in their waiting."""
    waiting = requests * cost.latency_ms / 1e3 / cost.concurrency
    return max(waiting, num_bytes / (cost.bandwidth_mb_s * 1e6))


def _as_written(scale: Scale, stored: StoredSizes | None) -> Scale:
    """Return a scale with the order of chunks in its files, where that was seen in them."""
    if stored is None or stored.layout is None:
        return scale
    return replace(scale, grid=replace(scale.grid, sharding=stored.layout))


def _under_images(samples: pd.DataFrame, *, scale: Scale, sizes: list[Triple]) -> list[Pairs]:
    """Return which chunks images of these sizes touch."""
    centers = centers_vx(samples, scale.voxel_size_nm)
    return [pair for size in sizes for pair in scale.grid.touched(centers, size)]


def _under_masks(
    samples: pd.DataFrame, *, of: MaskScale, scale: Scale, sizes: list[Triple]
) -> list[Pairs]:
    """Return which chunks of a segmentation the masks of such images touch."""
    centers, voxel_size_nm = centers_vx(samples, scale.voxel_size_nm), scale.voxel_size_nm
    starts = [(box_starts(centers, size), size) for size in sizes]
    return [pair for start, size in starts for pair in of.touched(start, size, voxel_size_nm)]


def _reading(
    samples: pd.DataFrame,
    job: JobConfig,
    scale: Scale,
    under: Callable[[pd.DataFrame], list[Pairs]],
    stored: StoredSizes | None,
    *,
    together: int = 0,
) -> Reading:
    """Count what is read; `together`: so many samples share chunks, 0 for all of a block."""
    together = min(together or job.samples_per_block, job.samples_per_block)
    touches, chunk_reads, distinct = 0, 0, _Distinct()
    options: dict[int, list[Joined]] = {gap: [] for gap in GAPS}
    step = max(1, SLICE_ROWS // job.samples_per_block) * job.samples_per_block
    for start in range(0, len(samples), step):
        part = samples.iloc[start : start + step]
        rows, pairs = part.row.to_numpy(), under(part)
        groups = part.block.to_numpy() * job.samples_per_block
        groups += rows % job.samples_per_block // together
        touches += sum(len(codes) for _, codes in pairs)
        codes = np.concatenate([codes for _, codes in pairs])
        owner = np.concatenate([groups[samples] for samples, _ in pairs])
        if not len(codes):  # a segmentation lies under none of them
            continue
        owner, codes = _each_once(owner, codes)
        chunk_reads += len(codes)
        distinct.add(codes)
        if scale.grid.sharding is not None:
            runs = _runs(owner, scale.grid.sharding.groups(codes))
            for gap in GAPS:
                options[gap].append(joined(runs, codes.astype(np.int64), gap))
    if scale.grid.sharding is None or not chunk_reads:
        totals = [Joined(gap=0, ranges=chunk_reads, chunks=chunk_reads)]
    else:
        totals = [_total(gap, found) for gap, found in options.items()]
    touched = _Touched(touches=touches, chunk_reads=chunk_reads, distinct=distinct)
    return _cost(scale, job.cost, totals, touched, stored)


class _Distinct:
    """Distinct chunk ids, a bit each: 4 KB for 2**15 neighbours of which any is there.

    So that millions of samples take what the shards they lie in take, not what their chunks do.
    """

    def __init__(self) -> None:
        self._pages: dict[int, npt.NDArray[np.uint8]] = {}

    def add(self, codes: Codes) -> None:
        """Take in ids, in any order."""
        codes = np.sort(codes)
        pages, first = np.unique(codes >> np.uint64(PAGE_BITS), return_index=True)
        places = codes & np.uint64((1 << PAGE_BITS) - 1)
        for page, part in zip(pages.tolist(), np.split(places, first[1:]), strict=True):
            there = np.zeros(1 << PAGE_BITS, dtype=bool)
            there[part] = True
            bits = np.packbits(there)
            self._pages[page] = self._pages[page] | bits if page in self._pages else bits

    def __iter__(self) -> Iterator[Codes]:
        """Yield the ids, neighbours together."""
        for page, bits in self._pages.items():
            places = np.flatnonzero(np.unpackbits(bits)).astype(np.uint64)
            yield places + np.uint64(page << PAGE_BITS)

    def __len__(self) -> int:
        return sum(int(np.bitwise_count(bits).sum()) for bits in self._pages.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Touched:
    touches: int
    chunk_reads: int
    distinct: _Distinct


def _each_once(owner: Ints, codes: Codes) -> tuple[Ints, Codes]:
    """Return the distinct pairs, sorted."""
    order = np.lexsort((codes, owner))
    owner, codes = owner[order], codes[order]
    fresh = np.ones(len(codes), dtype=bool)
    fresh[1:] = (owner[1:] != owner[:-1]) | (codes[1:] != codes[:-1])
    return owner[fresh], codes[fresh]


def _runs(owner: Ints, minishards: Codes) -> Ints:
    """Number what one range may span: a minishard within a block."""
    apart = (owner[1:] != owner[:-1]) | (minishards[1:] != minishards[:-1])
    return np.concatenate([[0], np.cumsum(apart)]).astype(np.int64)


def _total(gap: int, parts: list[Joined]) -> Joined:
    ranges, chunks = sum(part.ranges for part in parts), sum(part.chunks for part in parts)
    return Joined(gap=gap, ranges=ranges, chunks=chunks)


def _cost(
    scale: Scale,
    cost: CostConfig,
    options: list[Joined],
    touched: _Touched,
    stored: StoredSizes | None,
) -> Reading:
    voxels = int(np.prod(scale.grid.chunk))
    sizes = stored or _usual_sizes(scale, voxels)
    indices = _indices(scale.grid.sharding, touched.distinct, sizes)
    index_requests = indices.minishards + indices.shards

    def num_bytes(option: Joined) -> float:
        return option.chunks * sizes.chunk_bytes + indices.num_bytes

    def duration(option: Joined) -> float:
        return seconds(option.ranges + index_requests, num_bytes(option), cost)

    best = best_joined(options, duration)
    return Reading(
        touches=touched.touches,
        distinct_chunks=len(touched.distinct),
        chunk_reads=touched.chunk_reads,
        minishards=indices.minishards,
        shards=indices.shards,
        gap=best.gap,
        ranges=best.ranges,
        carried_chunks=best.chunks,
        requests=best.ranges + index_requests,
        bytes=int(num_bytes(best)),
        raw_bytes=touched.chunk_reads * voxels,
        measured=stored is not None,
    )


def _usual_sizes(scale: Scale, voxels: int) -> StoredSizes:
    layout = scale.grid.sharding
    return StoredSizes(
        chunk_bytes=voxels * BYTES_PER_VOXEL.get(scale.encoding, 1.0),
        index_bytes=0 if layout is None else layout.usual_index_bytes,
    )


def _indices(layout: Layout | None, distinct: _Distinct, sizes: StoredSizes) -> IndexReads:
    """Return what reading the indices of these chunks costs."""
    if layout is None or not len(distinct):
        return IndexReads(0, 0, 0.0)
    parts = [_sorted_unique(layout.groups(codes)) for codes in distinct]
    return layout.index_reads(_sorted_unique(np.concatenate(parts)), sizes.index_bytes)


def _sorted_unique(values: Codes) -> Codes:
    """Return what np.unique does, by sorting: its hashing is ten times as slow on millions."""
    values = np.sort(values)
    fresh = np.ones(len(values), dtype=bool)
    fresh[1:] = values[1:] != values[:-1]
    return values[fresh]
