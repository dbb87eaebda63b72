"""Neuroglancer's sharded format, `neuroglancer_uint64_sharded_v1`: arithmetic and parsing alone.

A chunk's id is the compressed Morton code of its place in the grid that begins at the voxel
offset; `id >> preshift_bits`, hashed, holds the minishard in its low bits and the shard above them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.volume.geometry import Ints, Triple
from ingest.volume.ranges.chunk_grid import Codes, IndexReads
from ingest.volume.ranges.coalesce import ChunkIndex
from ingest.volume.ranges.compression import Buffer, DamagedChunkError
from ingest.volume.volume_info import ShardingInfo
from shards.contract.morton import compressed_morton

Words = npt.NDArray[np.uint32]

MINISHARD_ENTRY_BYTES = 24  # id, offset and size of a chunk in a minishard index
SHARD_ENTRY_BYTES = 16  # start and end of a minishard index in a shard index


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharding:
    """A volume's sharding scheme, a `Layout`; `gzip_data`, `gzip_index`: what is compressed."""

    preshift_bits: int
    minishard_bits: int
    shard_bits: int
    hash: str = "identity"
    gzip_data: bool = False
    gzip_index: bool = False

    def codes(self, positions: Ints, shape: Triple) -> Codes:
        """Return the id of each position (n, 3) in a grid of `shape` chunks."""
        return compressed_morton(positions, shape)

    def groups(self, codes: Codes) -> Codes:
        """Return the number of each chunk's minishard, unique over the volume."""
        shift, mask = np.uint64(self.preshift_bits), self.minishard_bits + self.shard_bits
        return HASHES[self.hash](codes >> shift) & np.uint64((1 << mask) - 1)

    def index_reads(self, groups: Codes, mean_bytes: float) -> IndexReads:
        """Return what reading each index of these minishards, rising, and of their shards costs."""
        shards = 1 + int(np.count_nonzero(np.diff(groups >> np.uint64(self.minishard_bits))))
        num_bytes = shards * self.shard_index_bytes + len(groups) * mean_bytes
        return IndexReads(len(groups), shards, num_bytes)

    @property
    def usual_index_bytes(self) -> int:
        """Bytes of the index of a full minishard."""
        return MINISHARD_ENTRY_BYTES << self.preshift_bits

    @property
    def shard_index_bytes(self) -> int:
        """Bytes of the index at the start of each shard."""
        return SHARD_ENTRY_BYTES << self.minishard_bits

    def parse_shard_index(self, data: Buffer) -> Ints:
        """Return where the index of each minishard begins and ends in the shard's file (n, 2).

        Nothing protects these bytes but that each must end behind its start.
        """
        entries = np.frombuffer(data, "<u8").reshape(-1, SHARD_ENTRY_BYTES // 8)
        if (entries[:, 0] > entries[:, 1]).any():
            raise DamagedChunkError("a minishard's index ends before it begins")
        return entries.astype(np.int64) + self.shard_index_bytes

    def parse_minishard_index(self, data: Buffer, *, stored_bytes: int) -> ChunkIndex:
        """Return where the chunks of a minishard lie in the shard's file."""
        if len(data) % MINISHARD_ENTRY_BYTES:
            raise DamagedChunkError(f"{len(data)} bytes, no multiple of {MINISHARD_ENTRY_BYTES}")
        deltas = np.frombuffer(data, "<u8").reshape(3, -1)
        sizes = deltas[2].astype(np.int64)
        stops = np.cumsum(deltas[1].astype(np.int64) + sizes) + self.shard_index_bytes
        codes = np.cumsum(deltas[0], dtype=np.uint64)
        order = np.argsort(codes, kind="stable")
        order = order[sizes[order] > 0]  # a chunk of no bytes is not stored
        return ChunkIndex(codes[order], (stops - sizes)[order], stops[order], stored_bytes)


def murmurhash3(codes: Codes) -> Codes:
    """Return the low 64 bits of MurmurHash3_x86_128, seed 0, of each number's 8 bytes.

    https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp
    """
    low, high = codes.astype(np.uint32), (codes >> np.uint64(32)).astype(np.uint32)
    h1 = _rotated(low * np.uint32(0x239B961B), 15) * np.uint32(0xAB0E9789) ^ np.uint32(8)
    h2 = _rotated(high * np.uint32(0xAB0E9789), 16) * np.uint32(0x38B34AE5) ^ np.uint32(8)
    rest = np.full_like(low, 8)  # the two other words hold the length alone, and stay equal
    h1 = h1 + h2 + rest + rest
    h2, rest = _mixed(h2 + h1), _mixed(rest + h1)
    h1 = _mixed(h1) + h2 + rest + rest
    return h1.astype(np.uint64) | ((h2 + h1).astype(np.uint64) << np.uint64(32))


def _rotated(words: Words, bits: int) -> Words:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


def _mixed(words: Words) -> Words:
    words = (words ^ (words >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return words ^ (words >> np.uint32(16))


HASHES: dict[str, Callable[[Codes], Codes]] = {
    "identity": lambda codes: codes,
    "murmurhash3_x86_128": murmurhash3,
}


def sharding_from_info(spec: ShardingInfo | None, *, where: str) -> Sharding | None:
    """Return the sharding scheme of a scale, None where each chunk is a file."""
    if spec is None:
        return None
    if spec.type != "neuroglancer_uint64_sharded_v1" or spec.hash not in HASHES:
        raise ValueError(
            f"{where}: sharding {spec.type!r} with hash {spec.hash!r} is not "
            f"supported, expected 'neuroglancer_uint64_sharded_v1' with {' or '.join(HASHES)}"
        )
    encodings = [spec.data_encoding, spec.minishard_index_encoding]
    if not {"raw", "gzip"}.issuperset(encodings):
        raise ValueError(
            f"{where}: sharding with encodings {encodings} is not supported, expected raw or gzip"
        )
    return Sharding(
        preshift_bits=spec.preshift_bits,
        minishard_bits=spec.minishard_bits,
        shard_bits=spec.shard_bits,
        hash=spec.hash,
        gzip_data=spec.data_encoding == "gzip",
        gzip_index=spec.minishard_index_encoding == "gzip",
    )
