"""Samples straight into and out of the files of a store's zarr array.

zarr-python takes 1.6 ms of Python to read one inner chunk and as much to write one, five to ten
times what its bytes take. This knows the layout of a sample store: chunks of one sample, each
compressed where the array says so and followed by a crc32c, and the shard's index at its end
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html).
"""

import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import crc32c
import numpy as np
import zarr
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from shards.contract.schema import Codec
from shards.storage.atomic import atomic_write

ABSENT = 2**64 - 1  # offset of a chunk that was never written: a hole
CRC_BYTES = 4
OPEN_SHARDS = 64
MOST_EXPANDED = 2  # times its voxels' bytes that a compressed sample may take


class Compressor(Protocol):
    """A codec of numcodecs."""

    def encode(self, buf: np.ndarray) -> bytes:
        """Return compressed bytes."""
        ...

    def decode(self, buf: np.ndarray, out: np.ndarray) -> object:
        """Decompress into `out`."""
        ...


# The same codec as zarr's metadata name it and as numcodecs runs it. With one thread (zarr turns
# Blosc's own off when it is imported) the bytes do not depend on the machine.
COMPRESSORS: dict[Codec, tuple[BloscCodec | ZstdCodec, Compressor]] = {
    "zstd": (ZstdCodec(level=1), Zstd(level=1)),
    "blosc-lz4": (
        BloscCodec(typesize=1, cname="lz4", clevel=5, shuffle="noshuffle"),
        Blosc("lz4", clevel=5, shuffle=Blosc.NOSHUFFLE, typesize=1),
    ),
}


class ShardFiles:
    """Reads rows of one array; not for use from several threads at once."""

    def __init__(self, array: zarr.Array[Any], folder: Path) -> None:
        """Take an array of a store and the folder that holds its files."""
        self._crc_bytes, self._compressor = _layout(array, folder)
        assert array.shards is not None
        self._folder = folder
        self._shape, self._dtype = array.shape[1:], array.dtype
        self._rows_per_shard = array.shards[0]
        self._index = lru_cache(OPEN_SHARDS)(self._read_index)

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Return the images (b, c, [z], y, x) of `rows`, in the order given; a hole is an error."""
        images = np.empty((len(rows), *self._shape), self._dtype)
        by_place = sorted(range(len(rows)), key=lambda item: rows[item])
        for item in by_place:
            self._read_into(rows[item], images[item].reshape(-1))
        return images

    def _read_into(self, row: int, voxels: np.ndarray) -> None:
        shard, place = divmod(row, self._rows_per_shard)
        index = self._index(shard)
        if index[place, 0] == ABSENT:
            raise ValueError(f"{self._path(shard)}: row {row} holds no image; {_CURE}")
        path, (offset, length) = self._path(shard), index[place].tolist()
        stored, crc = voxels, bytearray(self._crc_bytes)
        if self._compressor is not None:
            stored = np.empty(min(length - len(crc), MOST_EXPANDED * voxels.nbytes), np.uint8)
        with path.open("rb", buffering=0) as file:
            count = os.preadv(file.fileno(), [stored.data, crc], offset)
        if count != stored.nbytes + len(crc) or length != count:
            raise ValueError(f"{path}: row {row} is cut short; {_CURE}")
        if crc and struct.unpack("<I", crc)[0] != crc32c.crc32c(stored.data):
            raise ValueError(f"{path}: row {row} does not match its checksum; {_CURE}")
        if self._compressor is not None:
            self._compressor.decode(stored, out=voxels)

    def _read_index(self, shard: int) -> np.ndarray:
        """Return (rows, 2) offset and length of each chunk."""
        path = self._path(shard)
        size = 16 * self._rows_per_shard
        try:
            with path.open("rb") as file:
                file.seek(-size - CRC_BYTES, os.SEEK_END)
                data = file.read()
        except FileNotFoundError:
            raise ValueError(f"{path}: no such zarr shard; {_CURE}") from None
        except OSError:
            raise ValueError(f"{path}: too short for a zarr shard; {_CURE}") from None
        if struct.unpack("<I", data[size:])[0] != crc32c.crc32c(data[:size]):
            raise ValueError(f"{path}: the shard's index does not match its checksum; {_CURE}")
        return np.frombuffer(data[:size], "<u8").reshape(-1, 2)

    def _path(self, shard: int) -> Path:
        return self._folder.joinpath("c", str(shard), *["0"] * len(self._shape))


_CURE = "the sample store is damaged: run its ingest again"


def chunk_codecs(codec: Codec) -> list[BloscCodec | ZstdCodec | Crc32cCodec]:
    """Return the codecs of a sample's chunk, as zarr's metadata name them."""
    compressor = [COMPRESSORS[codec][0]] if codec in COMPRESSORS else []
    return [*compressor, Crc32cCodec()]


def write_shard(
    path: Path, images: np.ndarray, rows_per_shard: int, compressor: Compressor | None
) -> None:
    """Write a whole shard, its chunks with checksums; an image of zeros is a hole.

    The same bytes as zarr's own. On return they are on the disk.
    """
    index = np.full((rows_per_shard, 2), ABSENT, dtype="<u8")
    offset = 0
    with atomic_write(path) as file:
        for place, image in enumerate(images):
            if image.any():
                stored = image if compressor is None else compressor.encode(image)
                file.write(stored)
                file.write(struct.pack("<I", crc32c.crc32c(stored)))
                index[place] = offset, file.tell() - offset
                offset = file.tell()
        data = index.tobytes()
        file.write(data + struct.pack("<I", crc32c.crc32c(data)))


def compressor_of(array: zarr.Array[Any]) -> Compressor | None:
    """Return what compresses the chunks of a store's array, None where nothing does."""
    return _layout(array, Path(array.path))[1]


def _layout(array: zarr.Array[Any], folder: Path) -> tuple[int, Compressor | None]:
    """Return the bytes of checksum behind each chunk and its compressor; refuse other layouts."""
    codecs: Any = getattr(array.metadata, "codecs", ())
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        match codecs[0].codecs:
            case (BytesCodec(endian=None),):
                return 0, None
            case (BytesCodec(endian=None), Crc32cCodec()):
                return CRC_BYTES, None
            case (BytesCodec(endian=None), named, Crc32cCodec()):
                for codec, compressor in COMPRESSORS.values():
                    if named == codec:
                        return CRC_BYTES, compressor
    raise ValueError(
        f"{folder}: chunks are not laid out as a sample store's are ({codecs}); "
        "write the store through shards.contract.sample_store.create_store"
    )
