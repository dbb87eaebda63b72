"""A volume of minnie65's geometry whose voxels are a formula of x, y, z, as its files would be.

A chunk holds one of a few contents, chosen by a hash of its place in the grid. Any byte range of
any shard file is made when it is asked for.
"""

import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Triple = tuple[int, int, int]

PRESHIFT_BITS, MINISHARD_BITS = 9, 6
MINISHARDS, PER_MINISHARD = 1 << MINISHARD_BITS, 1 << PRESHIFT_BITS
SHARD_INDEX_BYTES = 16 * MINISHARDS
INDEX_ROOM = 1 << 14  # more than a minishard index takes
SIZE_XYZ, OFFSET_XYZ = (212992, 180224, 13088), (13824, 13824, 14816)
MISSING_MODULUS = 1 << 20


def noise(shape: Triple) -> Bytes:
    """Return grey noise of the entropy of EM, a hash of the position in (z, y, x)."""
    n = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B1)
    for shift, factor in ((15, 0x85EBCA6B), (13, 0xC2B2AE35)):
        n = (n ^ (n >> np.uint32(shift))) * np.uint32(factor)
    total = (n ^ (n >> np.uint32(16))).view(np.uint8).reshape(-1, 4).sum(axis=1)
    return ((total - 510.0) * 0.175 + 127.5).astype(np.uint8).reshape(shape)


def waves(shape: Triple) -> Bytes:
    """Return smooth grey with a little noise, which JPEG shortens as it does EM."""
    z, y, x = np.indices(shape, sparse=True)
    smooth = 128 + 45 * np.sin(x / 5 + z / 3) + 45 * np.sin(y / 7 - z / 4)
    return (smooth + noise(shape) / 16.0 - 8).clip(0, 255).astype(np.uint8)


def gzip_huffman(data: bytes) -> bytes:
    """Return gzip without matches, which noise has none of: quick to make, true to size."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data) + packer.flush()


def gzip_level_0(data: bytes) -> bytes:
    """Return gzip that costs next to nothing to decode, to see what all else costs."""
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def gzip_stored(data: bytes) -> bytes:
    """Return gzip without compression: its length, 23 bytes more, is known beforehand."""
    sizes = len(data).to_bytes(2, "little") + (len(data) ^ 0xFFFF).to_bytes(2, "little")
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01" + sizes
    return head + data + zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")


@dataclass(frozen=True)
class Minishard:
    """Chunks of one minishard: their ids, where they begin and end in it, and what they hold."""

    index: bytes
    offsets: Ints  # (n + 1,)
    variants: Ints  # (n,)


@dataclass(eq=False)
class Scale:
    """One scale: chunks repeat `variants` contents, chosen by a hash of their grid position."""

    mip: int
    chunk_zyx: Triple
    encoding: str
    variants: int
    plain: bool = False  # gzip without compression
    missing: float = 0.0

    @property
    def key(self) -> str:
        return "_".join(str(n) for n in self.resolution)

    @property
    def resolution(self) -> list[int]:
        return [8 << self.mip, 8 << self.mip, 40]

    def set_missing(self, share: float) -> None:
        """Leave this share of the chunks out."""
        if share != self.missing:
            self.missing = share
            Scale.minishard.cache_clear()
            Scale.shard_index.cache_clear()

    def xyz(self, values: Triple) -> list[int]:
        """Return a size or an offset of mip 0 at this scale."""
        return [values[0] >> self.mip, values[1] >> self.mip, values[2]]

    @cached_property
    def grid_xyz(self) -> list[int]:
        sizes = zip(self.xyz(SIZE_XYZ), self.chunk_zyx[::-1], strict=True)
        return [-(-size // chunk) for size, chunk in sizes]

    @cached_property
    def bits_xyz(self) -> list[int]:
        return [(n - 1).bit_length() for n in self.grid_xyz]

    @cached_property
    def shard_bits(self) -> int:
        return sum(self.bits_xyz) - PRESHIFT_BITS - MINISHARD_BITS

    def info(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "size": self.xyz(SIZE_XYZ),
            "voxel_offset": self.xyz(OFFSET_XYZ),
            "resolution": self.resolution,
            "chunk_sizes": [list(self.chunk_zyx[::-1])],
            "encoding": self.encoding,
            "sharding": {
                "@type": "neuroglancer_uint64_sharded_v1",
                "preshift_bits": PRESHIFT_BITS,
                "minishard_bits": MINISHARD_BITS,
                "shard_bits": self.shard_bits,
                "hash": "identity",
                "minishard_index_encoding": "gzip",
                "data_encoding": "gzip" if self.encoding == "raw" else "raw",
            },
        }

    @cached_property
    def images(self) -> Bytes:
        """The contents (variant, z, y, x)."""
        if self.encoding == "raw":
            codes = np.arange(self.variants, dtype=np.uint8)[:, None, None, None]
            return noise(self.chunk_zyx)[None] ^ codes
        decoded = [simplejpeg.decode_jpeg(data, "GRAY") for data in self.payloads]
        return np.stack([image.reshape(self.chunk_zyx) for image in decoded])

    @cached_property
    def payloads(self) -> list[bytes]:
        """The contents as they are stored."""
        if self.encoding == "raw":
            gzip = gzip_level_0 if self.plain else gzip_huffman
            return [gzip(image.tobytes()) for image in self.images]
        base, wide = waves(self.chunk_zyx), (-1, self.chunk_zyx[2], 1)
        turned = [np.roll(base, (5 * v, 3 * v), (1, 2)) for v in range(self.variants)]
        return [
            simplejpeg.encode_jpeg(np.ascontiguousarray(image.reshape(wide)), 87, "GRAY", "GRAY")
            for image in turned
        ]

    @cached_property
    def payload_sizes(self) -> Ints:
        return np.array([len(data) for data in self.payloads], dtype=np.int64)

    @cached_property
    def slot_bytes(self) -> int:
        """Bytes of a shard file that belong to one minishard."""
        return INDEX_ROOM + PER_MINISHARD * int(self.payload_sizes.max())

    def positions_xyz(self, codes: Ints) -> Ints:
        """Return the grid positions (n, 3), x, y, z, of chunk ids."""
        found, place = np.zeros((len(codes), 3), dtype=np.int64), 0
        for bit in range(max(self.bits_xyz)):
            for axis in range(3):
                if bit < self.bits_xyz[axis]:
                    found[:, axis] |= ((codes >> place) & 1) << bit
                    place += 1
        return found

    def hashes(self, positions_xyz: Ints) -> Ints:
        x, y, z = np.moveaxis(positions_xyz, -1, 0)
        mixed = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791)
        return (mixed ^ (mixed >> 7)) * 0x9E3779B1 >> 9

    def exists(self, positions_xyz: Ints) -> npt.NDArray[np.bool_]:
        """Return whether a chunk is stored: those in the grid, less the share that is missing."""
        drawn = (self.hashes(positions_xyz) >> 8) % MISSING_MODULUS
        kept = drawn >= self.missing * MISSING_MODULUS
        return (positions_xyz < self.grid_xyz).all(axis=-1) & kept

    def variant_of(self, positions_xyz: Ints) -> Ints:
        return self.hashes(positions_xyz) % self.variants

    def voxels(self, start_zyx: Triple, shape_zyx: Triple) -> Bytes:
        """Return what the volume holds in a box (z, y, x), missing chunks included."""
        offset = self.xyz(OFFSET_XYZ)[::-1]
        spans = zip(start_zyx, shape_zyx, offset, self.chunk_zyx, strict=True)
        (z, zi), (y, yi), (x, xi) = (
            divmod(np.arange(start - low, start - low + size), chunk)
            for start, size, low, chunk in spans
        )
        touched = np.stack(
            np.meshgrid(*(np.arange(n[0], n[-1] + 1) for n in (z, y, x)), indexing="ij")[::-1], -1
        )
        variants = self.variant_of(touched)[np.ix_(z - z[0], y - y[0], x - x[0])]
        return np.asarray(self.images[variants, zi[:, None, None], yi[:, None], xi])

    def first_code(self, shard: int, minishard: int) -> int:
        return (shard << (PRESHIFT_BITS + MINISHARD_BITS)) + (minishard << PRESHIFT_BITS)

    @lru_cache(maxsize=8192)  # noqa: B019 (a server's few scales live as long as it does)
    def minishard(self, shard: int, minishard: int) -> Minishard:
        codes = self.first_code(shard, minishard) + np.arange(PER_MINISHARD)
        places = self.positions_xyz(codes)
        kept = self.exists(places)
        codes, variants = codes[kept], self.variant_of(places[kept])
        sizes = self.payload_sizes[variants]
        entries = np.zeros((3, len(codes)), dtype="<u8")
        entries[0], entries[2] = np.diff(codes, prepend=0), sizes
        # Offsets count from the end of the shard index, each from the end of the chunk before.
        entries[1, :1] = minishard * self.slot_bytes + INDEX_ROOM
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return Minishard(gzip_stored(entries.tobytes()), offsets, variants)

    @lru_cache(maxsize=8192)  # noqa: B019
    def shard_index(self, shard: int) -> bytes:
        codes = self.first_code(shard, 0) + np.arange(MINISHARDS * PER_MINISHARD)
        stored = self.exists(self.positions_xyz(codes)).reshape(MINISHARDS, -1).sum(axis=1)
        starts = np.arange(MINISHARDS) * self.slot_bytes
        entries = np.stack([starts, starts + stored * 24 + 23], axis=1)
        return (entries * (stored > 0)[:, None]).astype("<u8").tobytes()

    def read(self, shard: int, start: int, stop: int) -> tuple[list[memoryview], bool]:
        """Return the bytes of a shard file in pieces, and whether they are data of chunks."""
        if start < SHARD_INDEX_BYTES:
            return [memoryview(self.shard_index(shard))[start:stop]], False
        number, start_in = divmod(start - SHARD_INDEX_BYTES, self.slot_bytes)
        stop_in = stop - start + start_in
        held = self.minishard(shard, number)
        if start_in < INDEX_ROOM:
            return [memoryview(held.index)[start_in:stop_in]], False
        low, high = start_in - INDEX_ROOM, min(stop_in - INDEX_ROOM, int(held.offsets[-1]))
        first = int(np.searchsorted(held.offsets, low, side="right")) - 1
        last = int(np.searchsorted(held.offsets, high, side="left"))
        pieces = []
        for place in range(first, last):
            begin = int(held.offsets[place])
            data = memoryview(self.payloads[held.variants[place]])
            pieces.append(data[max(low - begin, 0) : high - begin])
        return pieces, True


def scales(*, plain: bool) -> list[Scale]:
    """Return the scales that are served; `plain`: mip 0 is gzip without compression."""
    return [
        Scale(0, (16, 128, 128), "raw", variants=64, plain=plain),
        Scale(1, (64, 64, 64), "jpeg", variants=16),
    ]
