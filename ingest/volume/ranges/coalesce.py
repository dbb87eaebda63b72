"""Byte ranges that fetch the requested chunks, and the gaps over which joining them pays.

Chunks of a minishard lie one behind the other in the order of their ids. A range may run on over
up to `gap` chunks that nobody asked for: bytes are paid to save a request. The plan counts ranges
by chunk ids, the reader makes them from the minishard's index, both with `range_numbers`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ingest.volume.geometry import Ints

GAPS = (0, 1, 2, 4, 8, 16)
MAX_RANGE_CHUNKS = 16  # so that a range is a few MB: large reads are shared out and stay in bounds


def range_numbers(runs: Ints, places: Ints, gap: int) -> Ints:
    """Return for each chunk (n,) the number of the range that fetches it, counted from 0.

    `places` are the chunks' places in what can be read at one go, `runs` says of which; sorted
    by run, then place. A range spans at most MAX_RANGE_CHUNKS.
    """
    if len(places) == 0:
        return np.zeros(0, dtype=np.int64)
    fresh = np.ones(len(places), dtype=bool)
    fresh[1:] = (runs[1:] != runs[:-1]) | (np.diff(places) > gap + 1)
    first = places[fresh][np.cumsum(fresh) - 1]
    part = (places - first) // MAX_RANGE_CHUNKS
    fresh[1:] |= part[1:] != part[:-1]
    return np.cumsum(fresh) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """Result of joining over one gap: ranges to request, and the chunks that they carry."""

    gap: int
    ranges: int
    chunks: int


def joined(runs: Ints, places: Ints, gap: int) -> Joined:
    """Count ranges and the chunks in them; arguments as for `range_numbers`."""
    numbers = range_numbers(runs, places, gap)
    if len(numbers) == 0:
        return Joined(gap=gap, ranges=0, chunks=0)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    stops = np.append(starts[1:], len(numbers)) - 1
    chunks = int((places[stops] - places[starts] + 1).sum())
    return Joined(gap=gap, ranges=len(starts), chunks=chunks)


def best_joined(options: Sequence[Joined], seconds: Callable[[Joined], float]) -> Joined:
    """Return the fastest option, and among equals the one that carries least."""
    return min(options, key=lambda option: (seconds(option), option.chunks, option.gap))
