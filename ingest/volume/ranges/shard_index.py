"""The place of a chunk of a precomputed volume, from its `info` alone.

The arithmetic is that of neuroglancer's sharded format, `neuroglancer_uint64_sharded_v1`: a
chunk's id is the compressed Morton code of its place in the grid that begins at the voxel offset;
`id >> preshift_bits`, hashed, holds the minishard in its low bits and the shard above them.
Arrays of grid positions are z, y, x like all others; the code interleaves x first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingest.volume.geometry import Box, Ints, Triple, box_starts, int_triple
from ingest.volume.volume_info import ShardingInfo
from shards.contract.morton import compressed_morton

Codes = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint32]

MINISHARD_ENTRY_BYTES = 24  # id, offset and size of a chunk in a minishard index
SHARD_ENTRY_BYTES = 16  # start and end of a minishard index in a shard index


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharding:
    """A volume's sharding scheme; `gzip_data` and `gzip_index` say what is compressed."""

    preshift_bits: int
    minishard_bits: int
    shard_bits: int
    hash: str = "identity"
    gzip_data: bool = False
    gzip_index: bool = False

    def minishards(self, codes: Codes) -> Codes:
        """Return one number a minishard, unique over the volume, for each chunk id."""
        shift, mask = np.uint64(self.preshift_bits), self.minishard_bits + self.shard_bits
        return HASHES[self.hash](codes >> shift) & np.uint64((1 << mask) - 1)

    def shards(self, codes: Codes) -> Codes:
        """Return the shard of each chunk id."""
        return self.minishards(codes) >> np.uint64(self.minishard_bits)

    @property
    def shard_index_bytes(self) -> int:
        """Bytes of the index at the start of each shard."""
        return SHARD_ENTRY_BYTES << self.minishard_bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The chunks of one scale of a volume; `sharding` is None where each chunk is a file."""

    bounds: Box
    chunk: Triple
    sharding: Sharding | None

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
        return compressed_morton(positions, self.shape)

    def touched(self, centers_vx: Ints, size: Triple) -> Iterator[tuple[Ints, Codes]]:
        """Yield (samples, chunk ids): which chunks the boxes of `size` around centres touch.

        Each pair of a sample and a chunk comes once; the boxes must lie in the volume.
        """
        start = box_starts(centers_vx, size)
        yield from self.touched_by(start, start + np.asarray(size))

    def touched_by(self, start: Ints, stop: Ints) -> Iterator[tuple[Ints, Codes]]:
        """Yield the same for boxes from `start` to `stop` (n, 3), not empty."""
        low = self.chunk_of(start)
        span = self.chunk_of(stop - 1) - low
        most = span.max(axis=0, initial=0) + 1
        for step in np.ndindex(*most):
            samples = np.flatnonzero((span >= step).all(axis=1))
            yield samples, self.codes(low[samples] + np.asarray(step))


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
