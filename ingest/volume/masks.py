"""Masks of the two partners of a synapse: channels beside EM, out of a flat segmentation.

The segmentation's voxels may be of another size than the image's: a voxel of the mask is what the
segmentation holds at that voxel's center. Where nothing is stored, and outside, is no segment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.job.image_config import VolumeConfig
from ingest.job.job_config import JobConfig
from ingest.volume.detect_format import segmentation_of
from ingest.volume.geometry import Box, Ints, Triple, TripleNm, int_triple
from ingest.volume.open import Volume, load_scales, open_volume, stored_sizes
from ingest.volume.ranges.chunk_grid import Codes
from ingest.volume.ranges.range_reader import WINDOW_BYTES
from ingest.volume.scale import Scale, StoredSizes
from shards.contract.overlap import ROUNDING_VX

Image = npt.NDArray[np.uint8]
Places = list[Ints]  # along z, y, x: the segmentation's voxel at each voxel of an image

INSIDE = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskScale:
    """The scale of a segmentation that masks are cut from."""

    config: VolumeConfig
    mip: int
    scale: Scale

    def open(self, *, concurrency: int, gap: int = 0) -> Volume:
        """Open it for reading; `gap` as the plan chose it."""
        return open_volume(
            self.config,
            self.mip,
            concurrency=concurrency,
            gap=gap,
            layer="segmentation",
            window_bytes=WINDOW_BYTES,
        )

    def boxes_at_once(self, sizes: Sequence[Triple], voxel_size_nm: TripleNm) -> int:
        """Return for how many samples with images of these sizes a reader has room at once."""
        ratio = np.divide(voxel_size_nm, self.scale.voxel_size_nm)
        voxels = sum(np.prod(np.multiply(size, ratio)) for size in sizes)
        return max(1, int(WINDOW_BYTES / (voxels * np.dtype(self.scale.dtype).itemsize)))

    def stored_sizes(self, boxes: Sequence[Box], voxel_size_nm: TripleNm) -> StoredSizes | None:
        """Return the mean size of stored chunks under images' boxes, None where it is not known."""
        held = [_held(_places(box, voxel_size_nm, self.scale), self.scale) for box in boxes]
        return stored_sizes(
            self.config,
            self.mip,
            [box for box in held if min(box.shape) > 0],
            layer="segmentation",
        )

    def touched(
        self, starts: Ints, size: Triple, voxel_size_nm: TripleNm
    ) -> Iterator[tuple[Ints, Codes]]:
        """Yield (samples, chunk ids) under images of `size` that start at voxels (n, 3)."""
        bounds = self.scale.grid.bounds
        ratio = np.divide(voxel_size_nm, self.scale.voxel_size_nm)
        first, last = (
            np.floor((voxels + 0.5) * ratio + ROUNDING_VX).astype(np.int64)
            for voxels in (starts, starts + np.asarray(size) - 1)
        )
        first, stop = np.maximum(first, bounds.start), np.minimum(last + 1, bounds.stop)
        there = np.flatnonzero((stop > first).all(axis=1))
        for rows, codes in self.scale.grid.touched_by(first[there], stop[there]):
            yield there[rows], codes


def mask_scale(job: JobConfig, voxel_size_nm: TripleNm) -> MaskScale:
    """Choose the scale of the job's segmentation to cut masks of such voxels (z, y, x) from.

    It is the coarsest that is nowhere coarser than they are, or else the finest.
    """
    config = segmentation_of(job.volume)
    scales = load_scales(config, saved=False, layer="segmentation")
    sizes = {mip: np.asarray(scale.voxel_size_nm) for mip, scale in scales.items()}
    fine = [mip for mip, nm in sizes.items() if (nm <= np.multiply(voxel_size_nm, 1.01)).all()]
    mip = max(fine, key=lambda mip: float(sizes[mip].prod()), default=0)
    return MaskScale(config=config, mip=mip, scale=scales[mip])


def fill_masks(
    images: Sequence[Image],
    roots: Sequence[Sequence[int]],
    boxes: Sequence[Box],
    voxel_size_nm: TripleNm,
    segmentation: Volume,
) -> None:
    """Fill images (c, z, y, x) that cover `boxes` with masks of a root id a channel.

    Root id 0 is no neuron: its mask is empty.
    """
    places = [_places(box, voxel_size_nm, segmentation.scale) for box in boxes]
    held = [_held(place, segmentation.scale) for place in places]
    rows = [row for row, box in enumerate(held) if min(box.shape) > 0]
    cutouts = segmentation.read_many([held[row] for row in rows])
    for image in images:
        image[...] = 0
    for row, ids_czyx in zip(rows, cutouts, strict=True):
        assert ids_czyx is not None
        for channel, root in zip(images[row], roots[row], strict=True):
            if root:
                _draw(channel, ids_czyx[0] == root, places[row], held[row])


def _places(box: Box, voxel_size_nm: TripleNm, scale: Scale) -> Places:
    axes = zip(box.start, box.stop, voxel_size_nm, scale.voxel_size_nm, strict=True)
    return [
        np.floor((np.arange(start, stop) + 0.5) * from_nm / to_nm + ROUNDING_VX).astype(np.int64)
        for start, stop, from_nm, to_nm in axes
    ]


def _held(places: Places, scale: Scale) -> Box:
    """Return the part of a segmentation that an image needs, of no size where it has none."""
    bounds = scale.grid.bounds
    low = [max(int(axis[0]), start) for axis, start in zip(places, bounds.start, strict=True)]
    high = [min(int(axis[-1]) + 1, stop) for axis, stop in zip(places, bounds.stop, strict=True)]
    return Box(int_triple(low), int_triple([max(a, b) for a, b in zip(low, high, strict=True)]))


def _draw(mask: Image, inside: npt.NDArray[np.bool_], places: Places, held: Box) -> None:
    """Set the voxels of `mask` whose place in the segmentation, a part of it, is inside."""
    if inside.shape == mask.shape:
        mask[inside] = INSIDE
        return
    spans = list(zip(places, held.start, held.stop, strict=True))
    into = np.ix_(*(np.flatnonzero((axis >= low) & (axis < high)) for axis, low, high in spans))
    out_of = np.ix_(*(axis[(axis >= low) & (axis < high)] - low for axis, low, high in spans))
    mask[into] = np.where(inside[out_of], INSIDE, 0)
