"""The metadata of a zarr v2 or v3 array, parsed by zarr itself, as a `StoredArray`."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import JsonValue
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from ingest.volume.arrays.chunk_bytes import (
    CRC_BYTES,
    Step,
    UnknownCodecError,
    step_of,
    step_of_zarr,
)
from ingest.volume.arrays.stored_array import StoredArray, check_chunk, find_axes
from ingest.volume.arrays.zarr_shards import ENTRY_BYTES, ZarrShards
from ingest.volume.geometry import Triple, int_triple

Names = Sequence[str | None] | None
Document = Mapping[str, JsonValue]

XARRAY_NAMES = "_ARRAY_DIMENSIONS"
CURE = "write it anew with zarr-python's own codecs"


def array_of_zarr(
    document: Document, attributes: Document, key: str, names: Names, *, where: str
) -> StoredArray:
    """Return the array that a `zarr.json` or `.zarray` describes.

    `names` are those of its axes; without, its own metadata names them, or they are z, y, x.
    """
    metadata = _parsed(dict(document), where=where)
    try:
        if isinstance(metadata, ArrayV2Metadata):
            return _version_2(metadata, key, names or _xarray_names(attributes), where=where)
        return _version_3(metadata, key, names or metadata.dimension_names, where=where)
    except UnknownCodecError as error:
        raise ValueError(f"{where}: {error} cannot be read here; {CURE}") from None


def _parsed(document: dict[str, Any], *, where: str) -> ArrayV2Metadata | ArrayV3Metadata:
    try:
        with warnings.catch_warnings(action="ignore"):
            if document.get("zarr_format") == 2:
                return ArrayV2Metadata.from_dict(document)
            return ArrayV3Metadata.from_dict(document)
    except Exception as error:  # noqa: BLE001 (zarr raises anything for damaged metadata)
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{where}: zarr cannot use this metadata ({text}); {CURE}") from None


def _version_2(metadata: ArrayV2Metadata, key: str, names: Names, *, where: str) -> StoredArray:
    codecs: list[Any] = [metadata.compressor] if metadata.compressor is not None else []
    codecs += reversed(metadata.filters or ())
    return _array(
        metadata,
        key=key,
        chunk=metadata.chunks,
        names=names,
        dtype=metadata.dtype.to_native_dtype(),
        steps=tuple(step_of(codec.get_config()) for codec in codecs),
        order=tuple(range(len(metadata.shape)))[:: 1 if metadata.order == "C" else -1],
        where=where,
    )


def _version_3(metadata: ArrayV3Metadata, key: str, names: Names, *, where: str) -> StoredArray:
    codecs: tuple[Any, ...] = metadata.codecs
    grid: Any = metadata.chunk_grid
    if not hasattr(grid, "chunk_shape"):
        raise ValueError(f"{where}: chunks of unequal sizes cannot be read here; {CURE}")
    outer, sharding = tuple(grid.chunk_shape), None
    if any(isinstance(codec, ShardingCodec) for codec in codecs):
        if len(codecs) > 1 or any(isinstance(codec, ShardingCodec) for codec in codecs[0].codecs):
            raise UnknownCodecError("sharding_indexed beside other codecs, or within itself,")
        sharding = codecs[0]
        codecs = sharding.codecs
    dtype, order, steps = _steps(codecs, metadata)
    return _array(
        metadata,
        key=key,
        chunk=outer if sharding is None else tuple(sharding.chunk_shape),
        names=names,
        dtype=dtype,
        steps=steps,
        order=order,
        where=where,
        outer=outer,
        sharding=sharding,
    )


def _array(
    metadata: ArrayV2Metadata | ArrayV3Metadata,
    *,
    key: str,
    chunk: Sequence[int],
    names: Names,
    dtype: np.dtype[Any],
    steps: tuple[Step, ...],
    order: tuple[int, ...],
    where: str,
    outer: Sequence[int] = (),
    sharding: ShardingCodec | None = None,
) -> StoredArray:
    axes = find_axes(names, metadata.shape, where=where)

    def zyx(sizes: Sequence[int]) -> Triple:
        return int_triple([sizes[axis] for axis in axes])

    check_chunk(zyx(metadata.shape), chunk, dtype, where=where)
    fill = metadata.fill_value
    return StoredArray(
        key=key,
        shape=zyx(metadata.shape),
        chunk=zyx(chunk),
        ndim=len(metadata.shape),
        axes=axes,
        dtype=dtype,
        fill=0 if fill is None or dtype.kind not in "iu" else int(fill),
        order=order,
        steps=steps,
        name=metadata.encode_chunk_key,
        shards=None if sharding is None else _shards(sharding, zyx(outer), zyx(chunk), axes),
    )


def _shards(codec: ShardingCodec, outer: Triple, inner: Triple, axes: Triple) -> ZarrShards:
    chunks = int_triple([a // b for a, b in zip(outer, inner, strict=True)])
    match codec.index_codecs:
        case (BytesCodec(),):
            steps: tuple[Step, ...] = ()
        case (BytesCodec(), Crc32cCodec() as checksum):
            steps = (step_of_zarr(checksum),)
        case _:
            raise UnknownCodecError("sharding_indexed with an index of codecs of its own")
    return ZarrShards(
        chunks=chunks,
        axes=axes,
        index_at_start=codec.index_location.value == "start",
        index_steps=steps,
        index_bytes=math.prod(chunks) * ENTRY_BYTES + CRC_BYTES * len(steps),
    )


def _steps(
    codecs: Sequence[Any], metadata: ArrayV3Metadata
) -> tuple[np.dtype[Any], tuple[int, ...], tuple[Step, ...]]:
    """Return the type with its byte order, the order of stored dimensions, and the steps."""
    order = tuple(range(len(metadata.shape)))
    dtype = metadata.data_type.to_native_dtype()
    rest = list(codecs)
    while rest and isinstance(rest[0], TransposeCodec):
        order = tuple(order[axis] for axis in rest.pop(0).order)
    if not rest or not isinstance(rest[0], BytesCodec):
        name = rest[0].to_dict()["name"] if rest else "none"
        raise UnknownCodecError(f"codec {name!r}")
    if (endian := rest.pop(0).endian) is not None:
        dtype = dtype.newbyteorder("<" if endian.value == "little" else ">")
    return dtype, order, tuple(step_of_zarr(codec) for codec in reversed(rest))


def _xarray_names(attributes: Document) -> Names:
    names = attributes.get(XARRAY_NAMES)
    return [str(name) for name in names] if isinstance(names, list) else None
