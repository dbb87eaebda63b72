"""The metadata of an N5 array, as a `StoredArray`: its `attributes.json` lists x first.

https://github.com/saalfeldlab/n5#file-system-specification
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, JsonValue

from ingest.volume.arrays.chunk_bytes import Step, step_of, unpack_lz4_blocks
from ingest.volume.arrays.stored_array import StoredArray, check_chunk, find_axes
from ingest.volume.geometry import int_triple
from ingest.volume.volume_info import Size, info_record
from shards.contract.documents import parse_plain

CURE = "expected dimensions, blockSize, dataType and compression, as N5 has them"
NUMCODECS = {"blosc": "blosc", "zstd": "zstd", "bzip2": "bz2", "xz": "lzma"}

Compression = Literal["raw", "gzip", "blosc", "zstd", "lz4", "bzip2", "xz"]
DataType = Literal[
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64"
]


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class N5Compression:
    """How the blocks are compressed."""

    type: Compression
    use_zlib: Annotated[bool, Field(alias="useZlib")] = False

    def steps(self) -> tuple[Step, ...]:
        """Return what undoes it."""
        if self.type == "raw":
            return ()
        if self.type == "lz4":
            return (unpack_lz4_blocks,)
        if self.type == "gzip":
            return (step_of({"id": "zlib" if self.use_zlib else "gzip"}),)
        return (step_of({"id": NUMCODECS[self.type]}),)


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class N5Attributes:
    """An array."""

    dimensions: tuple[Size, ...]
    block_size: Annotated[tuple[Size, ...], Field(alias="blockSize")]
    data_type: Annotated[DataType, Field(alias="dataType")]
    compression: N5Compression = N5Compression(type="raw")
    old_compression: Annotated[Compression | None, Field(alias="compressionType")] = None
    axes: tuple[str, ...] | None = None


def array_of_n5(attributes: Mapping[str, JsonValue], key: str, *, where: str) -> StoredArray:
    """Return the array that an `attributes.json` describes."""
    stated = parse_plain(N5Attributes, dict(attributes), where=where, cure=CURE)
    shape, block = stated.dimensions[::-1], stated.block_size[::-1]
    if len(shape) != len(block):
        raise ValueError(f"{where}: blocks of {block} for dimensions {shape}; {CURE}")
    axes = find_axes(None if stated.axes is None else stated.axes[::-1], shape, where=where)
    dtype = np.dtype(stated.data_type).newbyteorder(">")
    check_chunk(shape, block, dtype, where=where)
    old = stated.old_compression
    compression = stated.compression if old is None else N5Compression(type=old)
    return StoredArray(
        key=key,
        shape=int_triple([shape[axis] for axis in axes]),
        chunk=int_triple([block[axis] for axis in axes]),
        ndim=len(shape),
        axes=axes,
        dtype=dtype,
        fill=0,
        order=tuple(range(len(shape))),
        steps=compression.steps(),
        name=_block_name,
        has_headers=True,
    )


def _block_name(place: tuple[int, ...]) -> str:
    return "/".join(map(str, place[::-1]))
