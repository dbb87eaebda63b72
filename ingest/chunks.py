"""A chunk's stored bytes into voxels."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import deflate
import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image as Picture

from ingest.geometry import Triple

Image = npt.NDArray[np.uint8]
Voxels = npt.NDArray[Any]  # grey values, or ids of segments
Buffer = memoryview | bytes | bytearray

ATTEMPTS = 6
GZIP_MAGIC = b"\x1f\x8b"


class DamagedChunkError(ValueError):
    """Bytes that are not what was stored: fetched again, they may be."""


def _raw(data: Buffer) -> Image:
    return np.frombuffer(data, dtype=np.uint8)


def _jpeg(data: Buffer) -> Image:
    return np.asarray(simplejpeg.decode_jpeg(bytes(data), colorspace="GRAY")).reshape(-1)


def _png(data: Buffer) -> Image:
    with Picture.open(io.BytesIO(data), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("L"), dtype=np.uint8).reshape(-1)


SEGMENTS = "compressed_segmentation"
DECODERS: dict[str, Callable[[Buffer], Image]] = {"raw": _raw, "jpeg": _jpeg, "png": _png}
# Encodings of an `info` that can be read here; CloudVolume reads the others.
READABLE = (*DECODERS, SEGMENTS)


def gunzip(data: Buffer) -> bytearray:
    """Return what gzip data holds; its checksum is checked."""
    try:
        return deflate.gzip_decompress(data)
    except deflate.DeflateError as error:
        raise DamagedChunkError(f"gzip: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """How chunks of one scale are decoded; `gzip` says whether all are compressed with it."""

    encoding: str
    gzip: bool
    where: str
    dtype: str = "uint8"
    block_xyz: Triple = (8, 8, 8)  # of compressed_segmentation

    def __post_init__(self) -> None:
        if self.encoding not in READABLE:
            raise ValueError(
                f"{self.where}: encoding {self.encoding!r} cannot be read by byte ranges, only "
                f"{', '.join(READABLE)}; set volume.reader to cloudvolume in the config"
            )

    def is_gzip(self, data: Buffer, shape: Triple) -> bool:
        """Whether a chunk's file is compressed as a whole, which no `info` says."""
        size = np.prod(shape) * np.dtype(self.dtype).itemsize
        stored_plain = self.encoding == "raw" and len(data) == size
        return not stored_plain and bytes(data[:2]) == GZIP_MAGIC

    def persist(
        self, data: Buffer, shape: Triple, again: Callable[[], Buffer | None], *, what: str
    ) -> Voxels:
        """Return a chunk's voxels (z, y, x); while it is damaged, `again` fetches it anew."""
        for attempt in range(ATTEMPTS):
            try:
                return self._voxels(gunzip(data) if self.gzip else data, shape)
            except DamagedChunkError as error:
                failure = error
            if attempt + 1 < ATTEMPTS:
                data = again() or b""
        raise ValueError(
            f"{self.where}/{what} came damaged {ATTEMPTS} times ({failure}): the stored copy is "
            "bad; leave its samples out or read another mirror"
        )

    def _voxels(self, data: Buffer, shape: Triple) -> Voxels:
        if self.encoding == SEGMENTS:
            return decode_segments(data, shape, self.dtype, self.block_xyz)
        return decode(data, self.encoding, shape, self.dtype)


def decode(data: Buffer, encoding: str, shape: Triple, dtype: str = "uint8") -> Voxels:
    """Return a chunk's voxels (z, y, x).

    Gzip and PNG carry checksums, raw data its length; of JPEG only what breaks the decoder shows.
    """
    try:
        voxels = DECODERS[encoding](data).view(dtype)
    except (ValueError, OSError, SyntaxError, struct.error) as error:
        raise DamagedChunkError(f"{encoding}: {error}") from None
    if voxels.size != np.prod(shape):
        raise DamagedChunkError(f"{encoding}: {voxels.size} voxels, expected {shape}")
    return voxels.reshape(shape)


def decode_segments(data: Buffer, shape: Triple, dtype: str, block_xyz: Triple) -> Voxels:
    """Return the ids (z, y, x) of a chunk of `compressed_segmentation`."""
    import compressed_segmentation  # type: ignore[import-not-found]

    try:
        voxels_xyz = compressed_segmentation.decompress(
            bytes(data), shape[::-1], np.dtype(dtype), block_xyz, order="F"
        )
    except (ValueError, IndexError, RuntimeError) as error:
        raise DamagedChunkError(f"{SEGMENTS}: {error}") from None
    return np.asarray(voxels_xyz.reshape(shape[::-1], order="F").T)
