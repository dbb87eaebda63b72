"""Places of chunks in the files of a sharded volume: shard and minishard indices, read once."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from ingest.volume.geometry import Ints
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import ATTEMPTS
from ingest.volume.ranges.compression import Buffer, DamagedChunkError, decompress
from ingest.volume.ranges.shard_index import SHARD_ENTRY_BYTES, Codes, Sharding

Found = TypeVar("Found")

MAX_INDEX_BYTES = 1 << 28
KEPT_SHARDS = 16_384
KEPT_MINISHARDS = 4_096  # of 512 chunks: 50 MB


class Once(Generic[Found]):
    """Results by number, each made once, at first in the background; keeps the latest used."""

    def __init__(self, pool: Executor, make: Callable[[int], Found], keep: int) -> None:
        self._pool, self._make, self._keep = pool, make, keep
        self._lock = Lock()
        self._held: OrderedDict[int, Future[Found]] = OrderedDict()

    def get(self, number: int) -> Future[Found]:
        """Return the result, there already or under way; one that failed is made again."""
        with self._lock:
            future = self._held.get(number)
            if future is None or (future.done() and future.exception() is not None):
                future = self._held[number] = self._pool.submit(self._make, number)
            self._held.move_to_end(number)
            if len(self._held) > self._keep:
                self._held.popitem(last=False)
            return future


@dataclass(frozen=True, kw_only=True, slots=True)
class Minishard:
    """The chunks of a minishard by rising id, and where each begins and ends in the shard file."""

    codes: Codes
    starts: Ints
    stops: Ints
    num_bytes: int  # of this index as it is stored

    @property
    def runs(self) -> Ints:
        """A number that changes where a chunk does not begin where the one before it ended."""
        apart = self.starts[1:] != self.stops[:-1]
        return np.concatenate([[0], np.cumsum(apart)]).astype(np.int64)

    def find(self, codes: Codes) -> Ints:
        """Return the place of each chunk id, -1 where it is not stored."""
        if len(self.codes) == 0:
            return np.full(len(codes), -1)
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[places] == codes, places, -1)


NOTHING = Minishard(
    codes=np.zeros(0, np.uint64),
    starts=np.zeros(0, np.int64),
    stops=np.zeros(0, np.int64),
    num_bytes=0,
)


class VolumeShards:
    """The indices of one scale, kept for as long as this object lives."""

    def __init__(self, fetcher: Fetcher, key: str, sharding: Sharding, pool: Executor) -> None:
        self._key = key
        self._compression = "gzip" if sharding.gzip_index else ""
        self.sharding, self._fetcher = sharding, fetcher
        self.shards = Once(pool, self._read_shard, KEPT_SHARDS)
        self.minishards = Once(pool, self._read_minishard, KEPT_MINISHARDS)

    def shard_of(self, minishard: int) -> int:
        """Return the shard of a minishard, by its number in the volume."""
        return minishard >> self.sharding.minishard_bits

    def name(self, shard: int) -> str:
        """Return the file of a shard."""
        digits = -(-self.sharding.shard_bits // 4)
        return f"{self._key}/{shard:0{digits}x}.shard"

    def _read_shard(self, shard: int) -> Ints | None:
        """Return where each minishard's index begins and ends in the file (n, 2), if there is one.

        Nothing protects these bytes but that each must end behind its start.
        """
        size = self.sharding.shard_index_bytes
        for _ in range(ATTEMPTS):
            data = self._fetcher.range(self.name(shard), 0, size)
            if data is None:
                return None
            entries = np.frombuffer(data, "<u8").reshape(-1, SHARD_ENTRY_BYTES // 8)
            if (entries[:, 0] <= entries[:, 1]).all():
                return entries.astype(np.int64) + size
        raise ValueError(f"{self._fetcher.url}/{self.name(shard)}: its shard index is damaged")

    def _read_minishard(self, number: int) -> Minishard:
        shard, minishard = divmod(number, 1 << self.sharding.minishard_bits)
        # Whoever asks has waited for the shard's index, so that no thread waits here for another.
        index = self.shards.get(shard).result()
        if index is None or index[minishard, 0] == index[minishard, 1]:
            return NOTHING
        start, stop = (int(byte) for byte in index[minishard])
        for _ in range(ATTEMPTS):
            data = self._fetcher.range(self.name(shard), start, stop)
            if data is None:
                return NOTHING
            try:
                return self._parse(
                    decompress(data, self._compression, MAX_INDEX_BYTES), num_bytes=len(data)
                )
            except DamagedChunkError:
                continue
        raise ValueError(
            f"{self._fetcher.url}/{self.name(shard)}: the index of minishard {minishard} is "
            f"damaged, as it came {ATTEMPTS} times; tell whoever keeps the volume"
        )

    def _parse(self, data: Buffer, *, num_bytes: int) -> Minishard:
        if len(data) % 24:
            raise DamagedChunkError(f"{len(data)} bytes, expected a multiple of 24")
        deltas = np.frombuffer(data, "<u8").reshape(3, -1)
        sizes = deltas[2].astype(np.int64)
        ends = np.cumsum(deltas[1].astype(np.int64) + sizes) + self.sharding.shard_index_bytes
        codes = np.cumsum(deltas[0], dtype=np.uint64)
        order = np.argsort(codes, kind="stable")
        order = order[sizes[order] > 0]  # a chunk of no bytes is not stored
        return Minishard(
            codes=codes[order],
            starts=(ends - sizes)[order],
            stops=ends[order],
            num_bytes=num_bytes,
        )
