"""Boxes that are read together: which chunks they need, and the images while these come in."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Condition
from typing import Any

import numpy as np

from ingest.volume.geometry import Box, Ints, int_triple
from ingest.volume.ranges.chunk_codec import Voxels
from ingest.volume.ranges.shard_index import Grid
from ingest.volume.scale import Scale

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of the grid; for each box of a window that it lies in, what goes where.

    `into` are slices of the boxes' images, `out_of` the same voxels in the chunk.
    """

    code: int
    box: Box
    users: Ints
    into: list[Slices]
    out_of: list[Slices]


class Window:
    """Images of boxes (c, z, y, x), filled chunk by chunk from many threads, taken in order.

    A chunk is decoded once and copied at once into each image that it lies in, so that what is
    held is the images alone. `images` are arrays to fill; where None, one is made.
    """

    def __init__(self, scale: Scale, boxes: Sequence[Box], images: Sequence[Voxels | None]) -> None:
        self._boxes, self._dtype = boxes, scale.dtype
        self.cancelled = False
        self.chunks = chunks_of(scale.grid, boxes)
        self.codes = np.array([chunk.code for chunk in self.chunks], dtype=np.uint64)
        users = np.concatenate([chunk.users for chunk in self.chunks])
        self._left = np.bincount(users, minlength=len(boxes))
        self._images = {number: image for number, image in enumerate(images) if image is not None}
        self._missing: set[int] = set()
        self._failure: BaseException | None = None
        self._changed = Condition()

    def watch(self, future: Future[Any]) -> None:
        """Let an error of work for this window reach whoever takes its images."""

        def ended(done: Future[Any]) -> None:
            if (error := done.exception()) is not None:
                self.fail(error)

        future.add_done_callback(ended)

    def fill(self, number: int, image_zyx: Voxels | None) -> None:
        """Hand in chunk `number`, None where the volume has no such chunk."""
        chunk = self.chunks[number]
        if image_zyx is None and self._dtype != "uint8":
            image_zyx = np.zeros(chunk.box.shape, self._dtype)
        if image_zyx is None:
            self._missing.update(chunk.users.tolist())
        else:
            for user, into, out_of in zip(
                chunk.users.tolist(), chunk.into, chunk.out_of, strict=True
            ):
                self._image(user)[0][into] = image_zyx[out_of]
        with self._changed:
            self._left[chunk.users] -= 1
            if not self._left[chunk.users].all():  # one is whole: do not wake its taker for less
                self._changed.notify()

    def fail(self, error: BaseException) -> None:
        """Let whoever takes images get this error."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify()

    def take(self) -> Iterator[Voxels | None]:
        """Yield each box's image in order, as soon as it is whole; None: a chunk is missing."""
        for number in range(len(self._boxes)):
            with self._changed:
                self._changed.wait_for(partial(self._settled, number))
                if self._failure is not None:
                    raise self._failure
            image = self._images.pop(number, None)
            yield None if number in self._missing else image

    def _settled(self, number: int) -> bool:
        return self._failure is not None or not self._left[number]

    def _image(self, user: int) -> Voxels:
        image = self._images.get(user)
        if image is not None:
            return image
        shape = (1, *self._boxes[user].shape)
        return self._images.setdefault(user, np.empty(shape, dtype=self._dtype))


def chunks_of(grid: Grid, boxes: Sequence[Box]) -> list[Chunk]:
    """Return the chunks that boxes touch, by rising id, each with the boxes that it serves."""
    starts = np.array([box.start for box in boxes], dtype=np.int64)
    stops = np.array([box.stop for box in boxes], dtype=np.int64)
    low, high = grid.chunk_of(starts), grid.chunk_of(stops - 1)
    users, places = [], []
    for step in np.ndindex(*(high - low).max(axis=0) + 1):
        rows = np.flatnonzero((high - low >= step).all(axis=1))
        users.append(rows)
        places.append(low[rows] + np.asarray(step))
    user, place = np.concatenate(users), np.concatenate(places)
    codes = grid.codes(place)
    order = np.lexsort((user, codes))
    user, place, codes = user[order], place[order], codes[order]
    chunk = np.asarray(grid.chunk)
    corner = place * chunk + np.asarray(grid.bounds.start)
    low, high = np.maximum(starts[user], corner), np.minimum(stops[user], corner + chunk)
    into = _slices(low - starts[user], high - starts[user])
    out_of = _slices(low - corner, high - corner)
    begins = np.flatnonzero(np.diff(codes, prepend=codes[:1] - np.uint64(1)))
    ends = [*begins[1:].tolist(), len(codes)]
    return [
        Chunk(code, grid.chunk_box(int_triple(at)), user[a:b], into[a:b], out_of[a:b])
        for code, at, a, b in zip(
            codes[begins].tolist(), place[begins], begins.tolist(), ends, strict=True
        )
    ]


def _slices(starts: Ints, stops: Ints) -> list[Slices]:
    z, y, x = (
        map(slice, low, high) for low, high in zip(starts.T.tolist(), stops.T.tolist(), strict=True)
    )
    return list(zip(z, y, x, strict=True))
