"""Chunks of zarr and N5 arrays, a `ChunkSource`: files of their own, or ranges of zarr shards."""

from collections.abc import Sequence

import numpy as np

from ingest.volume.arrays.stored_array import StoredArray
from ingest.volume.arrays.zarr_shards import ZarrShards
from ingest.volume.geometry import Ints, int_triple
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import ATTEMPTS, Voxels
from ingest.volume.ranges.chunk_grid import Chunk
from ingest.volume.ranges.chunk_source import Located
from ingest.volume.ranges.coalesce import ChunkIndex, Piece, Request
from ingest.volume.ranges.compression import DamagedChunkError, Stored
from ingest.volume.ranges.precomputed import Once
from shards.images.gray_window import GrayWindow

KEPT_INDICES = 4_096


class ArraySource:
    """The chunks of one array; one that is not stored holds the array's fill value."""

    def __init__(
        self, array: StoredArray, fetcher: Fetcher, *, gap: int, window: GrayWindow | None
    ) -> None:
        self._array, self._fetcher, self._gap, self._window = array, fetcher, gap, window
        fill = np.full(1, array.fill, array.dtype.newbyteorder("="))
        self.absent: int | None = int(fill[0] if window is None else window.to_gray(fill)[0])
        self._indices = Once(self._read_index, KEPT_INDICES)
        self.shards = array.shards
        self.written: ZarrShards | None = array.shards  # with what indices show of the order

    def locate(self, chunks: Sequence[Chunk]) -> Located:
        """Return a request for each chunk's file, or the ranges of the one shard that holds all."""
        if self.shards is None:
            names = [self._array.file(chunk.place) for chunk in chunks]
            return Located([Request(name, [Piece(n, 0, None)]) for n, name in enumerate(names)])
        places = np.array([chunk.place for chunk in chunks], dtype=np.int64)
        shard, inner = np.divmod(places, np.asarray(self.shards.chunks))
        name = self._array.file(int_triple(shard[0]))
        spans = self._indices(name)
        if spans is None:
            return Located([])
        requests = _joined(name, spans, self.shards.rows(inner), self._gap)
        return Located(requests, self.shards.index_bytes)

    def decode(self, stored: Stored, chunk: Chunk) -> Voxels:
        """Return a chunk's voxels."""
        values = self._array.voxels(stored, chunk.box.shape)
        return values if self._window is None else self._window.to_gray(values)

    def _read_index(self, name: str) -> Ints | None:
        """Return where a shard's chunks lie, fetched again while the index is damaged."""
        assert self.shards is not None
        size = self.shards.index_bytes
        for _ in range(ATTEMPTS):
            at_start = self.shards.index_at_start
            data = (
                self._fetcher.range(name, 0, size) if at_start else self._fetcher.tail(name, size)
            )
            if data is None:
                return None
            try:
                spans = self.shards.parse_index(data)
            except DamagedChunkError as error:
                damage = error
                continue
            self.written = (self.written or self.shards).as_written(spans)
            return spans
        raise ValueError(
            f"{self._fetcher.url}/{name}: its shard index came damaged {ATTEMPTS} times ({damage}):"
            " the stored copy is bad; copy it again or read another mirror"
        )


def _joined(name: str, spans: Ints, rows: Ints, gap: int) -> list[Request]:
    """Return the requests for chunks of a shard, numbered as `rows` of its index are.

    They are joined in the order in which the file holds them, whoever wrote it.
    """
    by_start = np.argsort(spans[:, 0], kind="stable")
    stored = by_start[spans[by_start, 0] >= 0]
    rank = np.full(len(spans), -1)
    rank[stored] = np.arange(len(stored))
    index = ChunkIndex(np.arange(len(stored), dtype=np.uint64), *spans[stored].T)
    numbers = np.argsort(rank[rows], kind="stable")
    numbers = numbers[rank[rows[numbers]] >= 0]
    requests = index.requests(name, rank[rows[numbers]].astype(np.uint64), gap)
    order = numbers.tolist()
    return [
        Request(name, [Piece(order[piece.number], *piece[1:]) for piece in request.pieces])
        for request in requests
    ]
