"""Byte ranges that fetch the requested chunks, and the gaps over which joining them pays.

Chunks of a minishard lie one behind the other in the order of their ids. A range may run on over
up to `gap` chunks that nobody asked for: bytes are paid to save a request. The plan counts ranges
by chunk ids, the reader makes them from the minishard's index, both with `range_numbers`. Nothing
is read here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ingest.volume.geometry import Ints
from ingest.volume.ranges.chunk_grid import Codes

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


class Piece(NamedTuple):
    """A chunk's bytes in a file, to the file's end where `stop` is None; its number in a list."""

    number: int
    start: int
    stop: int | None


class Request(NamedTuple):
    """One request: from the start of its first piece to the stop of its last."""

    name: str  # of a file below the volume's URL
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """The stored chunks of one file, or of a part of it, by rising id, and where each lies.

    `starts` and `stops` are bytes of the file; `stored_bytes`: of this index, as it is stored.
    """

    codes: Codes
    starts: Ints
    stops: Ints
    stored_bytes: int = 0

    def requests(self, name: str, codes: Codes, gap: int) -> list[Request]:
        """Return what fetches chunks from file `name`; those that are not stored are left out.

        `codes`, rising, are the list of the pieces' numbers.
        """
        numbers = np.flatnonzero(np.isin(codes, self.codes, assume_unique=True))
        places = np.searchsorted(self.codes, codes[numbers])
        apart = self.starts[1:] != self.stops[:-1]  # something else lies between the two
        runs = np.cumsum(np.append(0, apart))[places]
        requests: list[Request] = []
        columns = range_numbers(runs, places, gap), numbers, self.starts[places], self.stops[places]
        for number, *piece in zip(*(column.tolist() for column in columns), strict=True):
            if number == len(requests):
                requests.append(Request(name, []))
            requests[-1].pieces.append(Piece(*piece))
        return requests


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
