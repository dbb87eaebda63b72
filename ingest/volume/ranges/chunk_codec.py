"""A chunk's stored bytes into voxels."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image as Picture

from ingest.volume.geometry import Triple
from ingest.volume.ranges.compression import (
    GZIP_MAGIC,
    Buffer,
    DamagedChunkError,
    Stored,
    decompress,
)
from shards.images.gray_window import GrayWindow

Image = npt.NDArray[np.uint8]
Voxels = npt.NDArray[Any]  # grey values, or ids of segments

ATTEMPTS = 6
SPARE_BYTES = 1 << 16  # what an encoding may add to a chunk that it cannot shorten


def _raw(data: Buffer) -> Image:
    return np.frombuffer(data, dtype=np.uint8)


def _jpeg(data: Buffer) -> Image:
    return np.asarray(simplejpeg.decode_jpeg(bytes(data), colorspace="GRAY")).reshape(-1)


def _png(data: Buffer) -> Image:
    with Picture.open(io.BytesIO(data), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("L"), dtype=np.uint8).reshape(-1)


def _jxl(data: Buffer) -> Image:
    import imagecodecs  # takes long, and few volumes need it

    return np.asarray(imagecodecs.jpegxl_decode(bytes(data)), dtype=np.uint8).reshape(-1)


DECODERS: dict[str, Callable[[Buffer], Image]] = {
    "raw": _raw,
    "jpeg": _jpeg,
    "png": _png,
    "jxl": _jxl,
}
SEGMENTS = ("compressed_segmentation", "compresso", "crackle")
# Encodings of an `info` that can be read here; CloudVolume reads some others.
READABLE = (*DECODERS, *SEGMENTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """Decoding of the chunks of one scale."""

    encoding: str
    where: str
    dtype: str = "uint8"
    block_xyz: Triple = (8, 8, 8)  # of compressed_segmentation
    absent: int | None = None  # the value of what is not stored; None: an image has no data there
    window: GrayWindow | None = None  # makes gray values of integers

    def __post_init__(self) -> None:
        if self.encoding in DECODERS and self.dtype != "uint8" and self.encoding != "raw":
            raise ValueError(
                f"{self.where}: encoding {self.encoding!r} of {self.dtype} cannot be read, only of "
                "uint8; read a copy whose encoding is raw"
            )
        if self.encoding not in READABLE:
            raise ValueError(
                f"{self.where}: encoding {self.encoding!r} cannot be read by byte ranges, only "
                f"{', '.join(READABLE)}; set volume.reader to cloudvolume in the config"
            )

    def decode(self, stored: Stored, shape: Triple) -> Voxels:
        """Return a chunk's voxels (z, y, x); that it is gzip may show in its first bytes alone."""
        data, compression = stored
        num_bytes = int(np.prod(shape)) * np.dtype(self.dtype).itemsize
        stored_plain = self.encoding == "raw" and len(data) == num_bytes
        if not compression and not stored_plain and bytes(data[:2]) == GZIP_MAGIC:
            compression = "gzip"
        plain = decompress(data, compression, 2 * num_bytes + SPARE_BYTES)
        if self.encoding in SEGMENTS:
            return decode_segments(plain, self.encoding, shape, self.dtype, self.block_xyz)
        voxels = decode(plain, self.encoding, shape, self.dtype)
        return voxels if self.window is None else self.window.to_gray(voxels)


def decode(data: Buffer, encoding: str, shape: Triple, dtype: str = "uint8") -> Voxels:
    """Return a chunk's voxels (z, y, x).

    Gzip and PNG carry checksums, raw data its length; of JPEG only what breaks the decoder shows.
    """
    try:
        voxels = DECODERS[encoding](data).view(dtype)
    except (ValueError, OSError, SyntaxError, RuntimeError, struct.error) as error:
        raise DamagedChunkError(f"{encoding}: {error}") from None
    if voxels.size != np.prod(shape):
        raise DamagedChunkError(f"{encoding}: {voxels.size} voxels, expected {shape}")
    return voxels.reshape(shape)


def decode_segments(
    data: Buffer, encoding: str, shape: Triple, dtype: str, block_xyz: Triple
) -> Voxels:
    """Return the ids (z, y, x) of a chunk of a segmentation."""
    try:
        voxels_xyz = _segments_xyz(bytes(data), encoding, shape[::-1], dtype, block_xyz)
    except (ValueError, IndexError, RuntimeError, TypeError, struct.error) as error:
        raise DamagedChunkError(f"{encoding}: {error}") from None
    if voxels_xyz.size != np.prod(shape) or voxels_xyz.dtype != dtype:
        found = f"{voxels_xyz.size} voxels of {voxels_xyz.dtype}"
        raise DamagedChunkError(f"{encoding}: {found}, expected {shape} of {dtype}")
    return np.asarray(voxels_xyz.reshape(shape[::-1], order="F").T)


def _segments_xyz(
    data: bytes, encoding: str, shape_xyz: Triple, dtype: str, block_xyz: Triple
) -> Voxels:
    if encoding == "compresso":
        import compresso  # type: ignore[import-not-found]

        return np.asarray(compresso.decompress(data))
    if encoding == "crackle":
        import crackle  # type: ignore[import-untyped]

        return np.asarray(crackle.decompress(data))
    import compressed_segmentation  # type: ignore[import-not-found]

    return np.asarray(
        compressed_segmentation.decompress(data, shape_xyz, np.dtype(dtype), block_xyz, order="F")
    )
