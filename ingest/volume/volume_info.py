"""A precomputed volume's `info`: checked before anything is computed from it.

https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, with_config

from shards.contract.documents import parse_json
from shards.images.limits import IMAGE_VARIABLE, max_image_bytes

CURE = "it is no precomputed volume that can be read here; correct its path in the config"
MAX_VOXELS = 2**62  # along all axes together: ids of chunks and places of voxels are 64 bits


def _whole(value: Any) -> Any:
    """Some tools write whole numbers as 8.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Size = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=2**40)]
Offset = Annotated[int, BeforeValidator(_whole), Field(ge=-(2**52), le=2**52)]
Nm = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]
Bits = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=64)]
info_record = with_config(ConfigDict(strict=True, extra="ignore"))


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingInfo:
    """The sharding of a scale's chunks."""

    type: Annotated[str | None, Field(alias="@type")] = None
    preshift_bits: Bits
    minishard_bits: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=32)]
    shard_bits: Bits
    hash: str | None = None
    minishard_index_encoding: str = "raw"
    data_encoding: str = "raw"

    def __post_init__(self) -> None:
        if self.minishard_bits + self.shard_bits > 64:
            raise ValueError("minishard_bits and shard_bits are more than 64 together")


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleInfo:
    """One scale; triples are x, y, z."""

    key: Annotated[str, Field(min_length=1)]
    size: tuple[Size, Size, Size]
    resolution: tuple[Nm, Nm, Nm]
    chunk_sizes: Annotated[tuple[tuple[Size, Size, Size], ...], Field(min_length=1)]
    encoding: str
    voxel_offset: tuple[Offset, Offset, Offset] = (0, 0, 0)
    sharding: ShardingInfo | None = None
    compressed_segmentation_block_size: tuple[Size, Size, Size] = (8, 8, 8)

    def __post_init__(self) -> None:
        if math.prod(self.size) > MAX_VOXELS:
            raise ValueError(f"size {list(self.size)} is more than {MAX_VOXELS} voxels")
        chunk = self.chunk_sizes[0]
        voxels = math.prod(min(c, s) for c, s in zip(chunk, self.size, strict=True))
        if voxels > (limit := max_image_bytes()):
            raise ValueError(
                f"chunks of {list(chunk)} voxels are over the {limit} bytes that one may have; if "
                f" that is right, raise {IMAGE_VARIABLE}"
            )


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeInfo:
    """The keys of an `info` that are used here, and its whole text, for other readers."""

    type: Literal["image", "segmentation"]
    data_type: str
    num_channels: Whole
    scales: Annotated[tuple[ScaleInfo, ...], Field(min_length=1)]
    text: str = ""


def parse_info(data: bytes, *, where: str) -> VolumeInfo:
    """Return a checked `info`."""
    return replace(parse_json(VolumeInfo, data, where=where, cure=CURE), text=data.decode())
