"""2D images out of cubes: the middle section and its neighbours, as channels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections:
    """The middle section z // 2 of a cube and `around` sections on either side of it."""

    around: int = 0

    def __post_init__(self) -> None:
        if self.around < 0:
            raise ValueError(f"sections around the middle must not be negative, got {self.around}")

    def shape(self, cube: tuple[int, ...]) -> tuple[int, int, int]:
        """Return (c * sections, y, x) for cubes (c, z, y, x)."""
        if (
            len(cube) != 4
            or not 0 <= cube[1] // 2 - self.around <= cube[1] // 2 + self.around < cube[1]
        ):
            raise ValueError(
                f"images of shape {cube} have no middle section with {self.around} on either side; "
                "stream a shard set of deep enough cubes, or ask for fewer sections"
            )
        c, _, y, x = cube
        return c * (2 * self.around + 1), y, x

    def of(self, cubes: np.ndarray) -> np.ndarray:
        """Return the sections (..., c * sections, y, x) of cubes (..., c, z, y, x)."""
        middle = cubes.shape[-3] // 2
        chosen = cubes[..., middle - self.around : middle + self.around + 1, :, :]
        *batch, c, s, y, x = chosen.shape
        return chosen.reshape(*batch, c * s, y, x)

    def runs(self, cube: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return (first voxel, voxels) of each channel's sections within a cube."""
        c, z, y, x = cube
        first = z // 2 - self.around
        return [((i * z + first) * y * x, (2 * self.around + 1) * y * x) for i in range(c)]
