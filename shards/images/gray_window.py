"""The window of integer values that becomes the 256 grays of an image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TABLE_BYTES = 2  # integers of so many bytes are looked up
LOOK_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrayWindow:
    """`low` and below become 0, `high` and above 255, those between in proportion, rounded."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -(2.0**64) <= self.low < self.high <= 2.0**64:
            raise ValueError(
                f"intensity must be two rising numbers [low, high], got [{self.low}, {self.high}]"
            )

    def to_gray(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return integers as gray values."""
        if values.dtype.itemsize > TABLE_BYTES:
            return self._scaled(values)
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        unsigned = np.dtype(f"u{native.dtype.itemsize}")
        every = np.arange(1 << 8 * unsigned.itemsize, dtype=unsigned).view(native.dtype)
        return np.take(self._scaled(every), native.view(unsigned))

    def _scaled(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        share = (values.astype(np.float64) - self.low) / (self.high - self.low)
        return np.floor(share.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def propose_window(values: npt.NDArray[Any]) -> tuple[int, int]:
    """Return low and high of a window that most values of a look at the data lie in.

    Zeros, which stand for missing data, do not count where there is anything else.
    """
    shown = values[values != 0]
    low, high = np.percentile(shown if shown.size else values, LOOK_PERCENTILES)
    return int(np.floor(low)), max(int(np.ceil(high)), int(np.floor(low)) + 1)
