"""Chunks of a scale: their grid, their ids, and which of them a list of boxes needs.

All here is arithmetic: nothing is read. Arrays of grid positions are z, y, x like all others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ingest.volume.geometry import Box, Ints, Triple, box_starts, int_triple
from shards.contract.morton import compressed_morton

Codes = npt.NDArray[np.uint64]
Slices = tuple[slice, slice, slice]


class IndexReads(NamedTuple):
    """Requests for indices, and the bytes that they carry."""

    minishards: int
    shards: int
    num_bytes: float


class Layout(Protocol):
    """How chunks share files, by arithmetic on their ids alone; what a plan counts requests by.

    Chunks of a group are located by one index, and lie in one file in the order of their ids.
    """

    def codes(self, positions: Ints, shape: Triple) -> Codes:
        """Return the id of each position (n, 3) in a grid of `shape` chunks."""
        ...

    def groups(self, codes: Codes) -> Codes:
        """Return the number of each chunk's group, unique over the volume."""
        ...

    def index_reads(self, groups: Codes, mean_bytes: float) -> IndexReads:
        """Return what locating the chunks of distinct groups costs.

        `mean_bytes`: of a group's own index as it is stored, where groups have one.
        """
        ...

    @property
    def usual_index_bytes(self) -> int:
        """Bytes of a group's own index where none has been measured; 0: groups have none."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The chunks of one scale of a volume; `sharding` is None where each chunk is a file."""

    bounds: Box
    chunk: Triple
    sharding: Layout | None

    @property
    def shape(self) -> Triple:
        """Chunks along z, y, x."""
        z, y, x = (-(-n // c) for n, c in zip(self.bounds.shape, self.chunk, strict=True))
        return z, y, x

    def chunk_box(self, place: Triple) -> Box:
        """Return the region of the chunk at a place in the grid; cut short at the far end."""
        corners = zip(place, self.chunk, self.bounds.start, strict=True)
        start = int_triple([origin + p * size for p, size, origin in corners])
        ends = zip(start, self.chunk, self.bounds.stop, strict=True)
        return Box(start, int_triple([min(s + size, end) for s, size, end in ends]))

    def chunk_of(self, voxels: Ints) -> Ints:
        """Return the grid position of the chunk that each voxel (n, 3) lies in."""
        from_start = voxels - np.asarray(self.bounds.start)
        return np.asarray(from_start // np.asarray(self.chunk), dtype=np.int64)

    def codes(self, positions: Ints) -> Codes:
        """Return the chunk id of each grid position (n, 3)."""
        if self.sharding is not None:
            return self.sharding.codes(positions, self.shape)
        return compressed_morton(positions, self.shape)

    def touched(self, centers_vx: Ints, size: Triple) -> Iterator[tuple[Ints, Codes]]:
        """Yield (samples, chunk ids): which chunks the boxes of `size` around centers touch.

        Each pair of a sample and a chunk comes once; the boxes must lie in the volume.
        """
        start = box_starts(centers_vx, size)
        yield from self.touched_by(start, start + np.asarray(size))

    def touched_by(self, start: Ints, stop: Ints) -> Iterator[tuple[Ints, Codes]]:
        """Yield the same for boxes from `start` to `stop` (n, 3), not empty."""
        for samples, positions in self._positions(start, stop):
            yield samples, self.codes(positions)

    def chunks(self, boxes: Sequence[Box]) -> list["Chunk"]:
        """Return the chunks that boxes touch, by rising id, each with the boxes that it serves."""
        starts = np.array([box.start for box in boxes], dtype=np.int64)
        stops = np.array([box.stop for box in boxes], dtype=np.int64)
        users, positions = zip(*self._positions(starts, stops), strict=True)
        user, place = np.concatenate(users), np.concatenate(positions)
        codes = self.codes(place)
        order = np.lexsort((user, codes))
        user, place, codes = user[order], place[order], codes[order]
        corner = place * np.asarray(self.chunk) + np.asarray(self.bounds.start)
        low = np.maximum(starts[user], corner)
        high = np.minimum(stops[user], corner + np.asarray(self.chunk))
        into = _slices(low - starts[user], high - starts[user])
        out_of = _slices(low - corner, high - corner)
        begins = np.flatnonzero(np.diff(codes, prepend=codes[:1] - np.uint64(1)))
        ends = [*begins[1:].tolist(), len(codes)]
        firsts = zip(codes[begins].tolist(), map(int_triple, place[begins]), strict=True)
        return [
            Chunk(code, at, self.chunk_box(at), user[a:b].tolist(), into[a:b], out_of[a:b])
            for (code, at), a, b in zip(firsts, begins.tolist(), ends, strict=True)
        ]

    def _positions(self, start: Ints, stop: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Yield (boxes, grid positions of a chunk of each), until each has had all of its own."""
        low = self.chunk_of(start)
        span = self.chunk_of(stop - 1) - low
        for step in np.ndindex(*span.max(axis=0, initial=0) + 1):
            boxes = np.flatnonzero((span >= step).all(axis=1))
            yield boxes, low[boxes] + np.asarray(step)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of the grid; for each box of a list that it lies in, what goes where.

    `into` are slices of the boxes' images, `out_of` the same voxels in the chunk.
    """

    code: int
    place: Triple  # in the grid
    box: Box
    users: list[int]
    into: list[Slices]
    out_of: list[Slices]


def _slices(starts: Ints, stops: Ints) -> list[Slices]:
    z, y, x = (
        map(slice, low, high) for low, high in zip(starts.T.tolist(), stops.T.tolist(), strict=True)
    )
    return list(zip(z, y, x, strict=True))
