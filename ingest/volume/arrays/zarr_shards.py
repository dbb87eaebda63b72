"""Shards of zarr v3: the numbers of their chunks, and the index that says where each lies.

https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ingest.volume.arrays.chunk_bytes import Step, undo_all
from ingest.volume.geometry import Ints, Triple, int_triple
from ingest.volume.ranges.chunk_grid import Codes, IndexReads
from ingest.volume.ranges.compression import Buffer, DamagedChunkError
from shards.contract.morton import compressed_morton

ENTRY_BYTES = 16  # offset and size of a chunk
ABSENT = 2**64 - 1  # offset and size of a chunk that is not stored


@dataclass(frozen=True, kw_only=True, slots=True)
class ZarrShards:
    """The shards of an array, a `Layout`: `chunks` along z, y, x in each.

    `axes`: the stored dimensions that are z, y, x. In a file chunks lie in the order of these
    dimensions, or with `morton` in that of zarr-python, which interleaves their bits, the first
    dimension's lowest. Reading does not depend on it, but what a plan counts does.
    """

    chunks: Triple
    axes: Triple
    index_at_start: bool
    index_steps: tuple[Step, ...]
    index_bytes: int  # as it is stored
    morton: bool = False

    @property
    def num_chunks(self) -> int:
        """Chunks in a shard."""
        return math.prod(self.chunks)

    def codes(self, positions: Ints, shape: Triple) -> Codes:
        """Return the id of each position (n, 3) in a grid of `shape` chunks."""
        grid = [-(-size // per_shard) for size, per_shard in zip(shape, self.chunks, strict=True)]
        shards, inner = np.divmod(positions, np.asarray(self.chunks))
        rows, ranks = self.rows(inner), np.empty(len(positions), dtype=np.uint64)
        # A shard at the far end has fewer chunks, one behind the other all the same.
        sizes = np.minimum(self.chunks, np.asarray(shape) - shards * np.asarray(self.chunks))
        for size in np.unique(sizes, axis=0):
            alike = (sizes == size).all(axis=1)
            ranks[alike] = self._ranks(int_triple(size))[rows[alike]]
        return np.asarray(compressed_morton(shards, grid) * np.uint64(self.num_chunks) + ranks)

    def groups(self, codes: Codes) -> Codes:
        """Return the number of each chunk's shard."""
        return np.asarray(codes // np.uint64(self.num_chunks))

    def index_reads(self, groups: Codes, mean_bytes: float) -> IndexReads:
        """Return what reading the indices of these shards costs."""
        return IndexReads(0, len(groups), len(groups) * mean_bytes)

    @property
    def usual_index_bytes(self) -> int:
        """Bytes of a shard's index, which are always the same."""
        return self.index_bytes

    def rows(self, inner: Ints) -> Ints:
        """Return the row of a shard's index for each place (n, 3) in the shard."""
        stored = np.argsort(self.axes)  # z, y, x in the order of the stored dimensions
        sizes = [self.chunks[axis] for axis in stored]
        rows = np.ravel_multi_index(tuple(inner[:, stored].T), sizes)
        return np.asarray(rows, dtype=np.int64)

    def parse_index(self, data: Buffer) -> Ints:
        """Return where the chunk of each row begins and ends in its file (n, 2), -1 for nowhere."""
        plain = undo_all(self.index_steps, data, self.index_bytes)
        if len(plain) != self.num_chunks * ENTRY_BYTES:
            raise DamagedChunkError(f"{len(plain)} bytes for {self.num_chunks} chunks")
        entries = np.frombuffer(plain, "<u8").reshape(-1, 2)
        is_absent = (entries == np.uint64(ABSENT)).all(axis=1)
        if (entries[~is_absent] >= np.uint64(2**62)).any():
            raise DamagedChunkError("chunks beyond the end of any file")
        spans = entries.astype(np.int64)
        spans[:, 1] += spans[:, 0]
        spans[is_absent] = -1
        return spans

    def as_written(self, spans: Ints) -> "ZarrShards":
        """Return this layout with the order in which a file holds its chunks, where that shows."""
        stored = spans[:, 0] >= 0
        starts, ranks = spans[stored, 0], self._morton_ranks()[stored]
        is_morton = bool((np.diff(starts[np.argsort(ranks)]) > 0).all())
        is_c = bool((np.diff(starts) > 0).all())
        return self if is_morton == is_c else replace(self, morton=is_morton)

    def _ranks(self, size: Triple) -> Ints:
        """Return the place in its file of the chunk of each row; a shard has `size` chunks."""
        places = np.indices(self.chunks).reshape(3, -1).T
        is_there = np.zeros(self.num_chunks, dtype=bool)
        is_there[self.rows(places)] = (places < size).all(axis=1)
        order = self._morton_ranks() if self.morton else np.arange(self.num_chunks)
        return np.asarray(np.argsort(np.argsort(np.where(is_there, order, self.num_chunks))))

    def _morton_ranks(self) -> Ints:
        """Return the place in zarr-python's order of the chunk of each row of an index."""
        stored = np.argsort(self.axes)
        sizes = [self.chunks[axis] for axis in stored]
        places = np.stack(np.unravel_index(np.arange(self.num_chunks), sizes), axis=1)
        codes = compressed_morton(places[:, ::-1].astype(np.int64), sizes[::-1])
        return np.asarray(np.argsort(np.argsort(codes)))
