"""A chunk's stored bytes into voxels."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import deflate
import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image as Picture

from ingest.geometry import Triple

Image = npt.NDArray[np.uint8]
Buffer = memoryview | bytes | bytearray

ATTEMPTS = 4
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


# Encodings of an `info` that can be read here; CloudVolume reads the others.
DECODERS: dict[str, Callable[[Buffer], Image]] = {"raw": _raw, "jpeg": _jpeg, "png": _png}


def is_gzip(data: Buffer, encoding: str, shape: Triple) -> bool:
    """Whether a chunk's file is compressed as a whole, which no `info` says."""
    stored_plain = encoding == "raw" and len(data) == np.prod(shape)
    return not stored_plain and bytes(data[:2]) == GZIP_MAGIC


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

    def __post_init__(self) -> None:
        if self.encoding not in DECODERS:
            raise ValueError(
                f"{self.where}: encoding {self.encoding!r} cannot be read by byte ranges, only "
                f"{', '.join(DECODERS)}; set volume.reader to cloudvolume in the config"
            )

    def persist(
        self, data: Buffer, shape: Triple, again: Callable[[], Buffer | None], *, what: str
    ) -> Image:
        """Return a chunk's voxels (z, y, x); while it is damaged, `again` fetches it anew."""
        for attempt in range(ATTEMPTS):
            try:
                return decode(gunzip(data) if self.gzip else data, self.encoding, shape)
            except DamagedChunkError as error:
                failure = error
            if attempt + 1 < ATTEMPTS:
                data = again() or b""
        raise ValueError(
            f"{self.where}/{what} came damaged {ATTEMPTS} times ({failure}): the stored copy is "
            "bad; leave its samples out or read another mirror"
        )


def decode(data: Buffer, encoding: str, shape: Triple) -> Image:
    """Return a chunk's voxels (z, y, x).

    Gzip and PNG carry checksums, raw data its length; of JPEG only what breaks the decoder shows.
    """
    try:
        image = DECODERS[encoding](data)
    except (ValueError, OSError, SyntaxError, struct.error) as error:
        raise DamagedChunkError(f"{encoding}: {error}") from None
    if image.size != np.prod(shape):
        raise DamagedChunkError(f"{encoding}: {image.size} voxels, expected {shape}")
    return image.reshape(shape)
