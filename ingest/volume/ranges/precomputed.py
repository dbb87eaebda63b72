"""Precomputed volumes: chunks in files of their own, or in neuroglancer's shard files."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from ingest.volume.geometry import Ints
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import ATTEMPTS, Decoder, Voxels
from ingest.volume.ranges.chunk_grid import Chunk
from ingest.volume.ranges.chunk_source import ChunkSource, Located
from ingest.volume.ranges.coalesce import ChunkIndex, Piece, Request
from ingest.volume.ranges.compression import Buffer, DamagedChunkError, Stored, decompress
from ingest.volume.ranges.range_reader import WINDOW_BYTES, RangedVolume
from ingest.volume.ranges.shard_index import Sharding
from ingest.volume.scale import Layer, scale_from_info
from ingest.volume.volume_info import VolumeInfo
from shards.images.gray_window import GrayWindow

K = TypeVar("K")
T = TypeVar("T")

MAX_INDEX_BYTES = 1 << 28
KEPT_SHARDS = 16_384
KEPT_MINISHARDS = 4_096  # of 512 chunks: 50 MB
NOTHING = ChunkIndex(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def precomputed_volume(
    fetcher: Fetcher,
    info: VolumeInfo,
    mip: int,
    *,
    layer: Layer = "image",
    gap: int = 0,
    window: GrayWindow | None = None,
    window_bytes: int = WINDOW_BYTES,
) -> RangedVolume:
    """Open one scale of the precomputed volume that `fetcher` reads.

    `gap`: ranges are joined over up to so many chunks that nobody asked for. `window`: makes
    gray values.
    """
    scale = scale_from_info(info, mip, where=fetcher.url, layer=layer, window=window)
    spec = info.scales[mip]
    decoder = Decoder(
        encoding=scale.encoding,
        where=fetcher.url,
        dtype=info.data_type,
        block_xyz=spec.compressed_segmentation_block_size,
        absent=None if layer == "image" else 0,
        window=window,
    )
    source: ChunkSource = FileSource(spec.key, decoder)
    if scale.grid.sharding is not None:
        assert isinstance(scale.grid.sharding, Sharding)
        source = ShardedSource(spec.key, decoder, scale.grid.sharding, fetcher, gap)
    return RangedVolume(scale, source, fetcher, window_bytes=window_bytes)


class FileSource:
    """Chunks in files of their own, named by the voxels that they hold."""

    def __init__(self, key: str, decoder: Decoder) -> None:
        self._key, self._decoder, self.absent = key, decoder, decoder.absent

    def locate(self, chunks: Sequence[Chunk]) -> Located:
        """Return a request for each chunk's file."""
        pieces = [Piece(number, 0, None) for number in range(len(chunks))]
        named = zip(map(self._name, chunks), pieces, strict=True)
        return Located([Request(name, [piece]) for name, piece in named])

    def decode(self, stored: Stored, chunk: Chunk) -> Voxels | None:
        """Return a chunk's voxels; a file of no bytes stands for none."""
        return self._decoder.decode(stored, chunk.box.shape) if len(stored.data) else None

    def _name(self, chunk: Chunk) -> str:
        spans = zip(chunk.box.start[::-1], chunk.box.stop[::-1], strict=True)
        return f"{self._key}/" + "_".join(f"{low}-{high}" for low, high in spans)


class ShardedSource:
    """Chunks in shard files, located by the indices of shards and minishards, each read once."""

    def __init__(
        self, key: str, decoder: Decoder, sharding: Sharding, fetcher: Fetcher, gap: int
    ) -> None:
        self._key, self._decoder, self.absent = key, decoder, decoder.absent
        self._sharding, self._fetcher, self._gap = sharding, fetcher, gap
        self._shards = Once(self._read_shard, KEPT_SHARDS)
        self._minishards = Once(self._read_minishard, KEPT_MINISHARDS)

    def locate(self, chunks: Sequence[Chunk]) -> Located:
        """Return the requests for chunks of one minishard."""
        codes = np.array([chunk.code for chunk in chunks], dtype=np.uint64)
        (group,) = self._sharding.groups(codes[:1]).tolist()
        index, name = self._minishards(group), self._name(group >> self._sharding.minishard_bits)
        return Located(index.requests(name, codes, self._gap), index.stored_bytes)

    def decode(self, stored: Stored, chunk: Chunk) -> Voxels | None:
        """Return a chunk's voxels."""
        compression = "gzip" if self._sharding.gzip_data else ""
        return self._decoder.decode(Stored(stored.data, compression), chunk.box.shape)

    def _name(self, shard: int) -> str:
        return f"{self._key}/{shard:0{-(-self._sharding.shard_bits // 4)}x}.shard"

    def _read_shard(self, shard: int) -> Ints | None:
        """Return where the shard's minishard indices lie (n, 2), None where there is no shard."""
        name, stop = self._name(shard), self._sharding.shard_index_bytes
        return self._read(name, 0, stop, self._sharding.parse_shard_index, "its shard index")

    def _read_minishard(self, group: int) -> ChunkIndex:
        shard, minishard = divmod(group, 1 << self._sharding.minishard_bits)
        indices, index = self._shards(shard), None
        if indices is not None and indices[minishard, 0] < indices[minishard, 1]:
            what = f"the index of minishard {minishard}"
            start, stop = indices[minishard].tolist()
            index = self._read(self._name(shard), start, stop, self._parse_minishard, what)
        return index or NOTHING

    def _parse_minishard(self, data: Buffer) -> ChunkIndex:
        compression = "gzip" if self._sharding.gzip_index else ""
        plain = decompress(data, compression, MAX_INDEX_BYTES)
        return self._sharding.parse_minishard_index(plain, stored_bytes=len(data))

    def _read(
        self, name: str, start: int, stop: int, parse: Callable[[Buffer], T], what: str
    ) -> T | None:
        """Return an index, fetched again while it is damaged; None where there is no such file."""
        for _ in range(ATTEMPTS):
            data = self._fetcher.range(name, start, stop)
            try:
                return None if data is None else parse(data)
            except DamagedChunkError as error:
                damage = error
        raise ValueError(
            f"{self._fetcher.url}/{name}: {what} came damaged {ATTEMPTS} times ({damage}); tell "
            "whoever keeps the volume"
        )


class Once(Generic[K, T]):
    """Results by key, each made once, by the thread that asks first; keeps the latest used."""

    def __init__(self, make: Callable[[K], T], keep: int) -> None:
        self._make, self._keep = make, keep
        self._lock = Lock()
        self._held: OrderedDict[K, Future[T]] = OrderedDict()

    def __call__(self, key: K) -> T:
        """Return a result; while another thread makes it, wait. One that failed is made again."""
        with self._lock:
            future = self._held.get(key)
            is_first = future is None or (future.done() and future.exception() is not None)
            if future is None or is_first:
                future = self._held[key] = Future()
            self._held.move_to_end(key)
            if len(self._held) > self._keep:
                self._held.popitem(last=False)
        if is_first:
            try:
                future.set_result(self._make(key))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()
