"""Exact mean and standard deviation of uint8 voxels: sums are integers, so order is nothing."""

from dataclasses import dataclass
from fractions import Fraction
from math import sqrt

import numpy as np

from shards.contract.documents import document

# Longest run of squares of a uint8 whose sum a float32 still holds exactly: 255² · 256 < 2²⁴.
EXACT_RUN = 256


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Sums over the voxels of each channel: how many, their values, their values squared."""

    count: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            count=self.count + other.count,
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            squares=tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel, 0 to 255."""
        return tuple(float(Fraction(total, self.count)) for total in self.sums)

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation (of the population) of each channel, 0 to 255."""
        pairs = zip(self.sums, self.squares, strict=True)
        n = self.count
        return tuple(sqrt(Fraction(n * square - total * total, n * n)) for total, square in pairs)


def moments_of(images: np.ndarray) -> Moments:
    """Return the moments of images (b, c, ...) uint8."""
    sums, squares = [], []
    for channel in range(images.shape[1]):
        parts = [_sums(image[channel].reshape(-1)) for image in images]
        sums.append(sum(part[0] for part in parts))
        squares.append(sum(part[1] for part in parts))
    count = images.size // images.shape[1]
    return Moments(count=count, sums=tuple(sums), squares=tuple(squares))


def _sums(voxels: np.ndarray) -> tuple[int, int]:
    whole = len(voxels) // EXACT_RUN * EXACT_RUN
    tail = voxels[whole:].astype(np.int64)
    runs = voxels[:whole].reshape(-1, EXACT_RUN).astype(np.float32)
    values = np.einsum("rv->r", runs).sum(dtype=np.float64)
    squares = np.einsum("rv,rv->r", runs, runs).sum(dtype=np.float64)
    return int(values) + int(tail.sum()), int(squares) + int(tail @ tail)
