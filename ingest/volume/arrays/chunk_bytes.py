"""Undo what a zarr or N5 array did to a chunk's bytes, by the codecs of zarr and numcodecs.

A step never returns more bytes than may be there: it stops, or heeds the size that the compressed
data states.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import crc32c
import numcodecs
import numpy as np
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from ingest.volume.ranges.compression import Buffer, DamagedChunkError, decompress

Step = Callable[[Buffer, int], Buffer]  # stored bytes and the most that may come out of them

CRC_BYTES = 4
STATED_SIZES = {"blosc": slice(4, 8), "lz4": slice(0, 4)}  # where data states its size as plain
STATED_LENGTHS = {"blosc": slice(12, 16)}  # and its own; blosc reads on behind data cut short
LZ4_BLOCK = struct.Struct("<8sBiiI")  # lz4-java's LZ4BlockOutputStream, which N5 uses
LZ4_MAGIC, LZ4_METHODS, LZ4_STORED = b"LZ4Block", 0xF0, 0x10
FAILURES = (
    *(ValueError, RuntimeError, OSError, EOFError, TypeError),
    *(zlib.error, lzma.LZMAError, struct.error),
)


class UnknownCodecError(ValueError):
    """A codec that nothing installed here can undo."""


def step_of(config: Mapping[str, Any]) -> Step:
    """Return what undoes the codec that numcodecs knows by `config["id"]`."""
    name = str(config.get("id"))
    if name in ("gzip", "zstd"):
        return partial(_whole, name)
    if name in STREAMS:
        return partial(_streamed, name)
    try:
        codec = numcodecs.get_codec(dict(config))
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise UnknownCodecError(f"codec {name!r} ({' '.join(str(error).split())[:100]})") from None
    return partial(_by_numcodecs, codec, name)


def step_of_zarr(codec: Any) -> Step:
    """Return what undoes a codec of zarr v3 that turned bytes into bytes."""
    if isinstance(codec, Crc32cCodec):
        return _checked
    document = codec.to_dict()
    name = str(document["name"])
    if isinstance(codec, BloscCodec | GzipCodec | ZstdCodec):
        return step_of({"id": name})
    if not name.startswith("numcodecs."):
        raise UnknownCodecError(f"codec {name!r}")
    return step_of({"id": name.removeprefix("numcodecs."), **document.get("configuration", {})})


def undo_all(steps: Sequence[Step], data: Buffer, limit_bytes: int) -> Buffer:
    """Return plain bytes; `DamagedChunkError` where some step finds its data damaged."""
    for step in steps:
        try:
            data = step(data, limit_bytes)
        except FAILURES as error:
            raise DamagedChunkError(" ".join(str(error).split())[:200]) from None
        if len(data) > limit_bytes:
            raise DamagedChunkError(f"more than {limit_bytes} bytes")
    return data


def _whole(name: str, data: Buffer, limit_bytes: int) -> Buffer:
    return decompress(data, name, limit_bytes)


def _streamed(name: str, data: Buffer, limit_bytes: int) -> Buffer:
    reader = STREAMS[name]()
    plain: bytes = reader.decompress(bytes(data), limit_bytes + 1)
    if not reader.eof:
        raise ValueError(f"{name}: it ends early, or never")
    return plain


def _by_numcodecs(codec: Any, name: str, data: Buffer, limit_bytes: int) -> Buffer:
    if name in STATED_SIZES and int.from_bytes(data[STATED_SIZES[name]], "little") > limit_bytes:
        raise ValueError(f"more than {limit_bytes} bytes")
    if name in STATED_LENGTHS:
        stated = int.from_bytes(data[STATED_LENGTHS[name]], "little")
        if stated != len(data):
            raise ValueError(f"{len(data)} bytes, its header says {stated}")
    return np.ascontiguousarray(codec.decode(data)).reshape(-1).view(np.uint8).data


def _checked(data: Buffer, _: int) -> Buffer:
    """Return data without the crc32c behind it, which must be right."""
    body, stored = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if len(stored) < CRC_BYTES or crc32c.crc32c(body) != int.from_bytes(stored, "little"):
        raise ValueError("its crc32c differs")
    return body


def unpack_lz4_blocks(data: Buffer, limit_bytes: int) -> Buffer:
    """Return what blocks of lz4-java's stream hold; N5 stores them, numcodecs does not know them.

    https://github.com/lz4/lz4-java/blob/master/src/java/net/jpountz/lz4/LZ4BlockOutputStream.java
    """
    view, parts, total = memoryview(data), [], 0
    while view:
        magic, token, stored_bytes, plain_bytes, _ = LZ4_BLOCK.unpack_from(view)
        body, view = view[LZ4_BLOCK.size :][:stored_bytes], view[LZ4_BLOCK.size + stored_bytes :]
        total += plain_bytes
        if magic != LZ4_MAGIC or len(body) < stored_bytes or not 0 <= total <= limit_bytes:
            raise ValueError("no whole blocks of LZ4")
        if token & LZ4_METHODS != LZ4_STORED and plain_bytes:
            body = numcodecs.lz4.decompress(plain_bytes.to_bytes(4, "little") + bytes(body))
        parts.append(bytes(body))
    return b"".join(parts)


STREAMS: dict[str, Callable[[], Any]] = {
    "zlib": zlib.decompressobj,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}
