"""Random numbers that are a function of what they are for, so that no generator has state.

A sample's augmentation depends on (seed, epoch, sample) alone: not on the batch, the rank, or what
was drawn before, so a resumed run and a run on other ranks see the same images.
"""

import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]  # numbers of samples in their split
Draw = Callable[[str, int], npt.NDArray[np.float64]]  # purpose, count: numbers for each sample

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(
    purpose: str, seed: int, epoch: int, rows: Rows, count: int
) -> npt.NDArray[np.float64]:
    """Return numbers in [0, 1), (b, count): a row per sample, independent between purposes."""
    keys = _keys(purpose, seed, epoch, rows)
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(keys[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def seed_for(purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed that depends on the purpose and every number, in order."""
    key = np.array([zlib.crc32(purpose.encode())], np.uint64)
    for number in numbers:
        key = _mix(key * _GOLDEN + np.uint64(number))
    return int(key[0] >> np.uint64(1))


def _keys(purpose: str, seed: int, epoch: int, rows: Rows) -> npt.NDArray[np.uint64]:
    base = np.array([seed_for(purpose, seed, epoch)], np.uint64)
    return _mix(_mix(base) + rows.astype(np.uint64) * _GOLDEN)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))
