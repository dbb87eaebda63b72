"""No voxel of a training image may be in an image that is validated or tested on."""

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def overlaps(centers_vx: Ints, others_vx: Ints, size: tuple[int, int, int]) -> Mask:
    """Return which boxes of `size` around centres (n, 3) share a voxel with one around `others`.

    Boxes of one size overlap when their centres are closer than the size along every axis.
    """
    if not len(others_vx) or not len(centers_vx):
        return np.zeros(len(centers_vx), dtype=bool)
    sides = np.asarray(size, dtype=np.float64)
    # In units of the sides, distances are 1 and more or 1 - 1 / side and less: between them there
    # is room for what division leaves.
    apart = 1 - 0.5 / sides.max()
    nearest, _ = cKDTree(others_vx / sides).query(
        centers_vx / sides, p=np.inf, distance_upper_bound=apart
    )
    return np.asarray(nearest < apart)
