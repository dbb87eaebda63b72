"""Boxes, the one conversion from x, y, z to z, y, x, and centering.

Axes are z, y, x everywhere behind this module. A point given as voxel p of some resolution lies
in the voxel floor(p * resolution / voxel size) of a volume; a box of size s centered on voxel c
starts at c - s // 2, so an odd box has c in its middle and an even one just behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Triple = tuple[int, int, int]
TripleNm = tuple[float, float, float]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open region of voxels in a volume's own frame, z, y, x."""

    start: Triple
    stop: Triple

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        z, y, x = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return z, y, x

    def contains(self, other: "Box") -> bool:
        """Return whether `other` lies wholly inside."""
        low = all(a <= b for a, b in zip(self.start, other.start, strict=True))
        return low and all(a >= b for a, b in zip(self.stop, other.stop, strict=True))


def flip_triple(values: Sequence[float]) -> TripleNm:
    """Turn (x, y, z) into (z, y, x), or back."""
    a, b, c = values
    return float(c), float(b), float(a)


def int_triple(values: Sequence[int] | Ints) -> Triple:
    """Return three plain integers."""
    a, b, c = (int(value) for value in values)
    return a, b, c


def box_starts(centers_vx: Ints, size: Triple) -> Ints:
    """Return the first voxel of the box of `size` around each center (n, 3)."""
    return centers_vx - np.asarray(size, dtype=np.int64) // 2


def box_at(start: Ints | Sequence[int], size: Triple) -> Box:
    """Return the box of `size` that begins at `start`."""
    z, y, x = int_triple(start)
    return Box((z, y, x), (z + size[0], y + size[1], x + size[2]))


def inside(centers_vx: Ints, size: Triple, bounds: Box) -> npt.NDArray[np.bool_]:
    """Return, for each center (n, 3), whether the box of `size` around it lies in `bounds`."""
    starts = box_starts(centers_vx, size)
    stops = starts + np.asarray(size)
    within = (starts >= np.asarray(bounds.start)) & (stops <= np.asarray(bounds.stop))
    return np.asarray(within.all(axis=1))
