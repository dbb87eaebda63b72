"""Compression of whole files, under HTTP's names for it; never more bytes than may be there."""

from typing import NamedTuple

import brotli  # type: ignore[import-untyped]
import deflate
import zstandard

Buffer = memoryview | bytes | bytearray

GZIP_MAGIC = b"\x1f\x8b"
# A compressed file's suffix on a disk, as CloudVolume writes it, and the compression.
SUFFIXES = {".gz": "gzip", ".br": "br", ".zstd": "zstd"}
COMPRESSIONS = ("", "identity", *SUFFIXES.values())


class Stored(NamedTuple):
    """Bytes as they are stored, and how they are compressed as a whole."""

    data: Buffer
    compression: str


class DamagedChunkError(ValueError):
    """Bytes that are not what was stored: fetched again, they may be."""


def decompress(data: Buffer, compression: str, limit_bytes: int) -> Buffer:
    """Return what compressed data holds; if it is no such data, or more, it is damaged."""
    if compression in ("", "identity"):
        return data
    try:
        plain = DECOMPRESSORS[compression](data, limit_bytes)
    except (deflate.DeflateError, brotli.error, zstandard.ZstdError, ValueError) as error:
        raise DamagedChunkError(f"{compression}: {error}") from None
    if len(plain) > limit_bytes:
        raise DamagedChunkError(f"{compression}: more than {limit_bytes} bytes")
    return plain


def _gunzip(data: Buffer, limit_bytes: int) -> Buffer:
    """Return what gzip data holds; its checksum is checked."""
    if int.from_bytes(data[-4:], "little") > limit_bytes:
        raise ValueError(f"more than {limit_bytes} bytes")
    return deflate.gzip_decompress(data)


def _unbrotli(data: Buffer, limit_bytes: int) -> Buffer:
    reader = brotli.Decompressor()
    plain: bytes = reader.process(bytes(data), output_buffer_limit=limit_bytes + 1)
    if not reader.is_finished():
        raise ValueError("it ends early, or never")
    return plain


def _unzstd(data: Buffer, limit_bytes: int) -> Buffer:
    """Return what one frame holds; bytes behind it mean that some were put in or lost before."""
    if zstandard.frame_content_size(data) > limit_bytes:
        raise ValueError(f"more than {limit_bytes} bytes")
    return zstandard.ZstdDecompressor().decompress(
        data, max_output_size=limit_bytes, allow_extra_data=False
    )


DECOMPRESSORS = {"gzip": _gunzip, "br": _unbrotli, "zstd": _unzstd}
