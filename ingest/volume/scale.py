"""A volume's scales, known without reading voxels."""

from dataclasses import dataclass
from typing import Literal

from ingest.volume.geometry import Box, Triple, TripleNm, box_at, flip_triple, int_triple
from ingest.volume.ranges.chunk_grid import Grid
from ingest.volume.ranges.shard_index import sharding_from_info
from ingest.volume.volume_info import VolumeInfo

Layer = Literal["image", "segmentation"]
LAYERS: dict[Layer, str] = {"image": "gray-scale EM", "segmentation": "flat segmentation"}
DTYPES: dict[Layer, tuple[str, ...]] = {
    "image": ("uint8",),
    "segmentation": ("uint64", "uint32"),
}


class MissingDataError(ValueError):
    """The volume holds nothing where a box lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """One scale of a volume."""

    grid: Grid
    voxel_size_nm: TripleNm  # z, y, x
    encoding: str
    dtype: str = "uint8"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSizes:
    """Mean bytes of a chunk as it is stored, and of a minishard's index (0: there are none)."""

    chunk_bytes: float
    index_bytes: float


def scale_from_info(info: VolumeInfo, mip: int, *, where: str, layer: Layer = "image") -> Scale:
    """Return one scale of a precomputed `info`, which must be of such a layer."""
    if mip >= len(info.scales):
        keys = ", ".join(scale.key for scale in info.scales)
        raise ValueError(f"{where}: no mip {mip}; the volume has {len(info.scales)}: {keys}")
    if info.data_type not in DTYPES[layer] or info.num_channels != 1:
        raise ValueError(
            f"{where}: found {info.num_channels} channels of {info.data_type}, expected one "
            f"of {' or '.join(DTYPES[layer])}; point the config at the {LAYERS[layer]} layer"
        )
    scale = info.scales[mip]
    grid = Grid(
        bounds=box_at(scale.voxel_offset[::-1], int_triple(scale.size[::-1])),
        chunk=int_triple(scale.chunk_sizes[0][::-1]),
        sharding=sharding_from_info(scale.sharding, where=where),
    )
    size = flip_triple(scale.resolution)
    return Scale(grid=grid, voxel_size_nm=size, encoding=scale.encoding, dtype=info.data_type)


def scale_of_stack(shape: Triple, voxel_size_nm: TripleNm) -> Scale:
    """Return the scale of a stack of sections, of which each is read whole."""
    grid = Grid(bounds=Box((0, 0, 0), shape), chunk=(1, *shape[1:]), sharding=None)
    return Scale(grid=grid, voxel_size_nm=voxel_size_nm, encoding="tiff")
