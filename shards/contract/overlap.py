"""Voxels of points, and images that share voxels: none of train may with another split."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Positions are divided in floating point: 111 * 4.6 / 4.6 must not fall into voxel 110.
ROUNDING_VX = 1e-6
FARTHEST_VX = 2.0**53  # stands for all that is farther away, infinity as well


def voxels_of(points_nm: Floats, voxel_size_nm: tuple[float, float, float]) -> Ints:
    """Return the voxel that each point (n, 3), z, y, x in nm, lies in: int64 (n, 3)."""
    voxels = np.floor(points_nm / np.asarray(voxel_size_nm) + ROUNDING_VX)
    return np.asarray(voxels.clip(-FARTHEST_VX, FARTHEST_VX), dtype=np.int64)


def overlaps(centers_vx: Ints, others_vx: Ints, size: tuple[int, int, int]) -> Mask:
    """Return which boxes of `size` around centres (n, 3) share a voxel with one around `others`.

    Boxes of one size overlap when their centres are closer than the size along every axis.
    """
    if not len(others_vx) or not len(centers_vx):
        return np.zeros(len(centers_vx), dtype=bool)
    from scipy.spatial import cKDTree  # slow to import, and most who ask for voxels need none

    sides = np.asarray(size, dtype=np.float64)
    # In units of the sides, distances are 1 and more or 1 - 1 / side and less: between them there
    # is room for what division leaves.
    apart = 1 - 0.5 / sides.max()
    nearest, _ = cKDTree(others_vx / sides).query(
        centers_vx / sides, p=np.inf, distance_upper_bound=apart
    )
    return np.asarray(nearest < apart)
