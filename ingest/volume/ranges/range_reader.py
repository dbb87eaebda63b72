"""Reads a scale by byte ranges: each index once, each chunk once for a list of boxes.

Boxes are taken in windows: while the images of one are taken, the chunks of the next come in.
Threads fetch, decode and copy, which lets go of the interpreter's lock. Held at a time: the images
of two windows, twice `window_bytes`, and for each thread a range and a decoded chunk.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from ingest.volume.geometry import Box
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import ATTEMPTS, Image, Voxels
from ingest.volume.ranges.chunk_grid import Chunk
from ingest.volume.ranges.chunk_source import ChunkSource
from ingest.volume.ranges.coalesce import Piece, Request
from ingest.volume.ranges.compression import DamagedChunkError, Stored
from ingest.volume.scale import MissingDataError, Scale, StoredSizes
from shards.workers.threads import Pool, result_of

DECODING = 4  # chunks in decoding while `concurrency` requests are under way
WINDOW_BYTES = 128 << 20  # of images that are not given; two windows are held
MAX_WINDOW = 1024  # boxes: small ones need not all be planned before the first is read

Reading = dict[int, Future[None]]  # by the chunk's number in a window, the task that reads it
Target = tuple[Box, Image | None]  # a box, and the array to fill, None to make one


@dataclass(slots=True)
class Window:
    """Boxes that are read together: the tasks of each chunk, and the images that they fill.

    A chunk is copied at once into every image that it lies in, so that what is held is the images
    alone. An image is whole when the tasks of its chunks have ended.
    """

    chunks: list[Chunk]
    images: list[Voxels | None]  # (c, z, y, x); None: taken
    locating: dict[int, Future[Reading]]  # by the chunk's number; a chunk not stored has no reading
    missing: set[int] = field(default_factory=set)  # images of which a chunk is not stored
    cancelled: bool = False


class RangedVolume:
    """One scale of a volume, for the life of a worker; a `Volume`. For one thread at a time."""

    def __init__(
        self,
        scale: Scale,
        source: ChunkSource,
        fetcher: Fetcher,
        *,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.scale, self._source, self._fetcher = scale, source, fetcher
        self._window_bytes = window_bytes
        # A thread that waits for an index, or decodes, leaves its request to another.
        self._index_pool = Pool(fetcher.concurrency, "index")
        self._data_pool = Pool(fetcher.concurrency + DECODING, "data")

    @property
    def counts(self) -> dict[str, int]:
        """Requests and bytes so far, and how many requests failed and were made again."""
        return dict(self._fetcher.counts)

    def close(self) -> None:
        """End the threads."""
        self._fetcher.close()
        for pool in (self._index_pool, self._data_pool):
            pool.shutdown(wait=True, cancel_futures=True)

    def stored_sizes(self, boxes: Iterable[Box]) -> StoredSizes | None:
        """Return the mean size of the stored chunks under a few boxes; None if there are none."""
        chunks = self.scale.grid.chunks(list(boxes))
        groups = [[chunks[number] for number in group] for group in self._groups(chunks)]
        located = list(self._index_pool.map(self._source.locate, groups))
        requests = [request for part in located for request in part.requests]
        sizes = [size for part in self._data_pool.map(self._sizes, requests) for size in part]
        if not sizes:
            return None
        index_bytes = float(np.mean([part.index_bytes for part in located]))
        return StoredSizes(chunk_bytes=float(np.mean(sizes)), index_bytes=index_bytes)

    def read(self, box: Box) -> Image:
        """Return the voxels of `box` as (c, z, y, x)."""
        image = next(self.read_many([box]))
        if image is None:
            raise MissingDataError(f"{self._fetcher.url}: no data in {box}: a chunk is not stored")
        return image

    def read_many(
        self, boxes: Iterable[Box], images: Iterable[Image] | None = None
    ) -> Iterator[Image | None]:
        """Yield the voxels of each box, in order; None where a chunk of it is not stored.

        What goes wrong in a thread is raised where the image that needs it is asked for.
        """
        given: Iterable[Image | None] = repeat(None) if images is None else images
        windows: deque[Window] = deque()
        try:
            for targets in self._cut(zip(boxes, given, strict=False)):
                windows.append(self._start(targets))
                if len(windows) == 2:
                    yield from self._take(windows[0])
                    windows.popleft()
            while windows:
                yield from self._take(windows[0])
                windows.popleft()
        finally:
            for window in windows:
                window.cancelled = True

    def _cut(self, targets: Iterable[Target]) -> Iterator[list[Target]]:
        """Cut a list into windows whose images take half the memory; given ones take none."""
        window: list[Target] = []
        held = 0
        for box, image in targets:
            if not self.scale.grid.bounds.contains(box):
                bounds = self.scale.grid.bounds
                raise ValueError(f"{self._fetcher.url}: {box} is not within {bounds}")
            size = int(np.prod(box.shape)) * np.dtype(self.scale.dtype).itemsize
            full = held + size > self._window_bytes or len(window) == MAX_WINDOW
            if window and image is None and full:
                yield window
                window, held = [], 0
            window.append((box, image))
            held += size
        if window:
            yield window

    def _start(self, targets: Sequence[Target]) -> Window:
        """Set going whatever fills the images of a window."""
        chunks = self.scale.grid.chunks([box for box, _ in targets])
        images = [
            np.empty((1, *box.shape), self.scale.dtype) if image is None else image
            for box, image in targets
        ]
        window = Window(chunks, list(images), {})
        for group in self._groups(chunks):
            task = self._index_pool.submit(self._locate, window, group)
            window.locating.update(dict.fromkeys(group, task))
        return window

    def _take(self, window: Window) -> Iterator[Image | None]:
        """Yield each image in order, as soon as the tasks of its chunks have ended."""
        needs: list[list[int]] = [[] for _ in window.images]
        for number, chunk in enumerate(window.chunks):
            for user in chunk.users:
                needs[user].append(number)
        for user, numbers in enumerate(needs):
            for number in numbers:
                reading = result_of(window.locating[number])
                if number in reading:
                    result_of(reading[number])
            image, window.images[user] = window.images[user], None
            yield None if user in window.missing else image

    def _groups(self, chunks: Sequence[Chunk]) -> list[list[int]]:
        """Return the chunks' numbers, those together that are located together."""
        layout, groups = self.scale.grid.sharding, dict[int, list[int]]()
        if layout is None:
            return [list(range(len(chunks)))]
        codes = np.array([chunk.code for chunk in chunks], dtype=np.uint64)
        for number, group in enumerate(layout.groups(codes).tolist()):
            groups.setdefault(group, []).append(number)
        return list(groups.values())

    def _locate(self, window: Window, group: list[int]) -> Reading:
        """Have the data threads read a group's chunks, as soon as their index is known."""
        reading: Reading = {}
        if window.cancelled:
            return reading
        located = self._source.locate([window.chunks[number] for number in group])
        for request in located.requests:
            pieces = [Piece(group[piece.number], *piece[1:]) for piece in request.pieces]
            task = self._data_pool.submit(self._read, window, Request(request.name, pieces))
            reading.update((piece.number, task) for piece in pieces)
        for number in group:
            if number not in reading:
                self._fill(window, window.chunks[number], None)
        return reading

    def _read(self, window: Window, request: Request) -> None:
        """Fetch one range, decode its chunks and copy them into the images."""
        if window.cancelled:
            return
        start = request.pieces[0].start
        stored = self._fetch(request.name, start, request.pieces[-1].stop)
        for piece in request.pieces:
            part, chunk = stored, window.chunks[piece.number]
            if stored is not None and piece.stop is not None:
                data = stored.data[piece.start - start : piece.stop - start]
                part = Stored(data, stored.compression)
            self._fill(window, chunk, self._decode(request.name, piece, part, chunk))

    def _decode(
        self, name: str, piece: Piece, stored: Stored | None, chunk: Chunk
    ) -> Voxels | None:
        """Return a chunk's voxels, fetched again while they are damaged; None: it is not stored."""
        for attempt in range(ATTEMPTS):
            if attempt > 0:
                stored = self._fetch(name, piece.start, piece.stop)
            try:
                return None if stored is None else self._source.decode(stored, chunk)
            except DamagedChunkError as error:
                damage = error
        span = "" if piece.stop is None else f", bytes {piece.start} to {piece.stop}"
        raise ValueError(
            f"{self._fetcher.url}/{name}{span} came damaged {ATTEMPTS} times ({damage}): the "
            "stored copy is bad; leave its samples out or read another mirror"
        )

    def _fill(self, window: Window, chunk: Chunk, voxels: Voxels | None) -> None:
        """Copy a chunk into each image that it lies in; None: it is not stored."""
        if window.cancelled:  # the images may be in use for something else
            return
        if voxels is None and self._source.absent is None:
            window.missing.update(chunk.users)
            return
        assert voxels is None or voxels.dtype == self.scale.dtype
        for user, into, out_of in zip(chunk.users, chunk.into, chunk.out_of, strict=True):
            image = window.images[user]
            assert image is not None
            image[0][into] = self._source.absent if voxels is None else voxels[out_of]

    def _fetch(self, name: str, start: int, stop: int | None) -> Stored | None:
        """Return bytes of a file, all of them where `stop` is None; None: it is not there."""
        if stop is None:
            return self._fetcher.file(name)
        data = self._fetcher.range(name, start, stop)
        return None if data is None else Stored(data, "")

    def _sizes(self, request: Request) -> list[int]:
        """Return the size of each chunk as it is stored; files are read for it."""
        stops = [(piece.start, piece.stop) for piece in request.pieces]
        if any(stop is None for _, stop in stops):
            stored = self._fetcher.file(request.name)
            return [len(stored.data)] if stored is not None and len(stored.data) else []
        return [stop - start for start, stop in stops if stop is not None]
