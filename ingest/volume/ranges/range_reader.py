"""Reads a precomputed volume by byte ranges: each index once, each chunk once for a list of boxes.

Boxes are taken in windows: while the images of one are taken, the chunks of the next come in.
Threads fetch and decode; decoding and copying let go of the interpreter's lock. Held at a time:
the images of two windows, twice `window_bytes`, and for each thread a range and a decoded chunk.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import repeat

import numpy as np

from ingest.volume.geometry import Box
from ingest.volume.ranges.assemble import Window, chunks_of
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import Decoder, Image
from ingest.volume.ranges.chunk_sources import FileSource, ShardedSource, Source
from ingest.volume.ranges.shard_files import VolumeShards
from ingest.volume.scale import Layer, MissingDataError, StoredSizes, scale_from_info
from ingest.volume.volume_info import ScaleInfo, VolumeInfo
from shards.workers.threads import Pool

DECODING = 4  # chunks in decoding while `concurrency` requests are under way
WINDOW_BYTES = 128 << 20  # of images that are not given; two windows are held
MAX_WINDOW = 1024  # boxes: small ones need not all be planned before the first is read


class RangedVolume:
    """One scale of a precomputed volume, for the life of a worker; a `Volume`.

    A chunk of an image that is not stored is missing; one of a segmentation holds no segment, 0.

    `gap`: ranges are joined over up to so many chunks that nobody asked for. `concurrency`:
    requests at a time. For one thread at a time.
    """

    def __init__(
        self,
        path: str,
        info: VolumeInfo,
        mip: int,
        *,
        layer: Layer = "image",
        gap: int = 0,
        concurrency: int = 32,
        window_bytes: int = WINDOW_BYTES,
        fetcher: Fetcher | None = None,
    ) -> None:
        self.scale = scale_from_info(info, mip, where=path, layer=layer)
        self._path, self._window_bytes = path, window_bytes
        self._fetcher = fetcher or Fetcher(path, concurrency=concurrency)
        # Indices go ahead of data; threads that decode leave as many requests under way.
        self._index_pool = Pool(max(2, concurrency // 2), "index")
        self._data_pool = Pool(concurrency + DECODING, "data")
        self._source = self._open(info.scales[mip], gap)

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
        return self._source.stored_sizes(chunks_of(self.scale.grid, list(boxes)))

    def read(self, box: Box) -> Image:
        """Return the voxels of `box` as (c, z, y, x)."""
        image = next(self.read_many([box]))
        if image is None:
            raise MissingDataError(f"{self._path}: no data in {box}: a chunk is not stored")
        return image

    def read_many(
        self, boxes: Iterable[Box], images: Iterable[Image] | None = None
    ) -> Iterator[Image | None]:
        """Yield the voxels of each box, in order; None where a chunk of it is not stored."""
        targets: Iterable[Image | None] = repeat(None) if images is None else images
        started: deque[Window] = deque()
        try:
            for group in self._groups(zip(boxes, targets, strict=False)):
                window = Window(self.scale, *zip(*group, strict=True))
                self._source.start(window)
                started.append(window)
                if len(started) == 2:
                    yield from started[0].take()
                    started.popleft()
            while started:
                yield from started[0].take()
                started.popleft()
        finally:
            for window in started:
                window.cancelled = True

    def _groups(
        self, pairs: Iterable[tuple[Box, Image | None]]
    ) -> Iterator[list[tuple[Box, Image | None]]]:
        """Cut a list into windows whose images take half the memory; given ones take none."""
        group: list[tuple[Box, Image | None]] = []
        held = 0
        for box, image in pairs:
            if not self.scale.grid.bounds.contains(box):
                raise ValueError(f"{self._path}: {box} is not within {self.scale.grid.bounds}")
            size = int(np.prod(box.shape)) * np.dtype(self.scale.dtype).itemsize
            full = held + size > self._window_bytes or len(group) == MAX_WINDOW
            if group and image is None and full:
                yield group
                group, held = [], 0
            group.append((box, image))
            held += size
        if group:
            yield group

    def _open(self, spec: ScaleInfo, gap: int) -> Source:
        sharding = self.scale.grid.sharding
        decoder = Decoder(
            encoding=self.scale.encoding,
            where=self._path,
            dtype=self.scale.dtype,
            block_xyz=spec.compressed_segmentation_block_size,
        )
        if sharding is None:
            return FileSource(spec.key, self._fetcher, decoder, data_pool=self._data_pool)
        return ShardedSource(
            VolumeShards(self._fetcher, spec.key, sharding, self._index_pool),
            self._fetcher,
            decoder,
            compression="gzip" if sharding.gzip_data else "",
            index_pool=self._index_pool,
            data_pool=self._data_pool,
            gap=gap,
        )
