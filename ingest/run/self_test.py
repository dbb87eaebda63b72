"""A few samples read before all of them: axis order, centers and masks proven, not assumed."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from ingest.job.image_config import ViewConfig
from ingest.job.job_config import JobConfig
from ingest.volume.geometry import Box, TripleNm
from ingest.volume.masks import fill_masks
from ingest.volume.open import Volume
from ingest.volume.ranges.chunk_codec import Image
from ingest.volume.sample_boxes import boxes_of

PROBES = 8
PROBE_ATTEMPTS = 3


def check_voxels(
    volume: Volume, reference: Callable[[Box], Image], samples: pd.DataFrame, view: ViewConfig
) -> None:
    """Read a few samples before all of them, and refuse what cannot be right.

    The central voxel of every probe must be what `reference` reads there, which takes another way
    to the data: so axis order, centering and the place of chunks are proven. And more than half
    of the probes must hold something.
    """
    boxes = boxes_of(_few(samples), view, volume.scale.voxel_size_nm)
    cutouts = list(volume.read_many(boxes))
    missing = [box for box, cutout in zip(boxes, cutouts, strict=True) if cutout is None]
    if len(missing) * 2 > len(boxes):
        raise ValueError(
            f"{len(missing)} of {len(boxes)} cutouts read as a test lie in chunks that are not "
            f"stored, the first of them {missing[0]}; check the volume's path and the mip, that "
            "the copy of the volume is complete, and that its files are called as its info says "
            "(where they are compressed, on a disk, with .gz, .br or .zstd behind)"
        )
    empty = sum(
        _probe(volume, reference, box, cutout)
        for box, cutout in zip(boxes, cutouts, strict=True)
        if cutout is not None
    )
    if (empty + len(missing)) * 2 > len(boxes):
        raise ValueError(
            f"{empty} of {len(boxes)} cutouts read as a test are all zero"
            + (f", and {len(missing)} are not stored" if missing else "")
            + ": the positions do not lie where the volume has data; check "
            "synapses.position_resolution_nm, the order of axes and the mip"
        )


def check_masks(
    segmentation: Volume, samples: pd.DataFrame, view: ViewConfig, job: JobConfig, size: TripleNm
) -> None:
    """Refuse a segmentation that does not hold the root ids where the table says they are."""
    chosen, masks = _few(samples), job.samples.channels[1:]
    boxes, roots = boxes_of(chosen, view, size), chosen[[f"{name}_root_id" for name in masks]]
    images = np.empty((len(chosen), len(masks), *view.size_zyx), dtype=np.uint8)
    fill_masks(list(images), roots.to_numpy().tolist(), boxes, size, segmentation)
    empty = int((images.max(axis=(1, 2, 3, 4)) == 0).sum())
    if empty * 2 > len(chosen):
        raise ValueError(
            f"{job.volume.segmentation}: {empty} of {len(chosen)} samples read as a test have "
            f"nothing in their masks ({', '.join(masks)}): these root ids are not there; name the "
            "segmentation of the tables' materialization version"
        )


def _few(samples: pd.DataFrame) -> pd.DataFrame:
    return samples.iloc[np.unique(np.linspace(0, len(samples) - 1, PROBES).astype(int))]


def _probe(volume: Volume, reference: Callable[[Box], Image], box: Box, cutout: Image) -> bool:
    """Return whether nothing is there; bits that flip on the way are no reason to refuse."""
    z, y, x = (size // 2 for size in box.shape)
    corner = (box.start[0] + z, box.start[1] + y, box.start[2] + x)
    voxel = Box(corner, (corner[0] + 1, corner[1] + 1, corner[2] + 1))
    for _ in range(PROBE_ATTEMPTS):
        if cutout.shape[1:] == box.shape and cutout[0, z, y, x] == reference(voxel)[0, 0, 0, 0]:
            return not cutout.any()
        cutout = volume.read(box)
    raise ValueError(
        f"{box}: the central voxel of the cutout is not the voxel at its center; the volume's "
        "reader and its info disagree, do not trust this volume"
    )
