"""From samples to boxes, and from what was read to images."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.config import ViewConfig
from ingest.geometry import Box, Floats, Ints, TripleNm, box_at, box_starts, voxels_of

Image = npt.NDArray[np.uint8]


def points_nm(samples: pd.DataFrame) -> Floats:
    """Return the centres (n, 3) of samples, z, y, x in nm."""
    columns = ["center_z_nm", "center_y_nm", "center_x_nm"]
    return np.asarray(samples[columns].to_numpy(np.float64))


def centers_vx(samples: pd.DataFrame, voxel_size_nm: TripleNm) -> Ints:
    """Return the voxels (n, 3), z, y, x, that the samples' centres lie in."""
    return voxels_of(points_nm(samples), voxel_size_nm)


def boxes_of(samples: pd.DataFrame, view: ViewConfig, voxel_size_nm: TripleNm) -> list[Box]:
    """Return the box that each sample's image of this view covers."""
    starts = box_starts(centers_vx(samples, voxel_size_nm), view.size_zyx)
    return [box_at(start, view.size_zyx) for start in starts]


def image_of(cutout_czyx: Image, view: ViewConfig) -> Image:
    """Return the cutout as the view's image: a patch (c, y, x) loses the one section's axis."""
    expected = view.size_zyx
    if cutout_czyx.shape[1:] != expected or cutout_czyx.dtype != np.uint8:
        raise ValueError(
            f"the volume gave {cutout_czyx.dtype} {cutout_czyx.shape}, expected uint8 of {expected}"
        )
    return cutout_czyx[:, 0] if len(view.size) == 2 else cutout_czyx
