"""The border between formats and reading: a volume's format is a `ChunkSource` and a `Grid`.

The `Grid` of a scale says which chunks there are: first voxel, shape, order of ids, and by its
`Layout` which of them share a file and an index. The source says in which bytes of which file a
chunk is stored, and decodes them. `RangedVolume` does all else: ranges, threads, retries, images
and missing data; and the plan counts requests by the `Layout`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ingest.volume.ranges.chunk_codec import Voxels
from ingest.volume.ranges.chunk_grid import Chunk
from ingest.volume.ranges.coalesce import Request
from ingest.volume.ranges.compression import Stored


class Located(NamedTuple):
    """What fetches the chunks of a list that are stored; `index_bytes`: of their group's index."""

    requests: list[Request]
    index_bytes: int = 0


class ChunkSource(Protocol):
    """The stored chunks of one scale; both methods are called from many threads at once."""

    absent: int | None
    """The value of the voxels of a chunk that is not stored; None: its samples have no data."""

    def locate(self, chunks: Sequence[Chunk]) -> Located:
        """Return the requests for chunks by rising id, all of one group of the grid's `Layout`.

        Without a `Layout` they are any chunks. May read indices, and keeps them; a `ChunkIndex`
        makes requests that join neighbors. Pieces are numbered as the list is; a chunk that is
        known not to be stored is left out.
        """
        ...

    def decode(self, stored: Stored, chunk: Chunk) -> Voxels | None:
        """Return a chunk's voxels (z, y, x) of the scale's dtype, all that lie in `chunk.box`.

        More may follow behind them, as in chunks that are padded at the far end. None: these bytes
        stand for no voxels. `DamagedChunkError` where the bytes are not what was stored: they are
        fetched again, a few times.
        """
        ...
