"""A volume's scales, known without reading voxels."""

from dataclasses import dataclass
from typing import Literal

from ingest.volume.geometry import Box, Triple, TripleNm, box_at, flip_triple, int_triple
from ingest.volume.ranges.chunk_grid import Grid, Layout
from ingest.volume.ranges.shard_index import sharding_from_info
from ingest.volume.volume_info import VolumeInfo
from shards.images.gray_window import GrayWindow

# What a volume is read as; `values`: an image's integers as they are stored.
Layer = Literal["image", "segmentation", "values"]
LAYERS: dict[Layer, str] = {
    "image": "gray-scale EM",
    "segmentation": "flat segmentation",
    "values": "gray-scale EM",
}
WHOLE_NUMBERS = ("int8", "int16", "int32", "int64")


class NoWindowError(ValueError):
    """Voxels of more than 8 bits, and no window that makes them gray; `proposed`: such a window."""

    def __init__(self, text: str, proposed: tuple[float, float] = (0.0, 255.0)) -> None:
        super().__init__(text)
        self.proposed = proposed


class NoVoxelSizeError(ValueError):
    """A volume that does not say how large its voxels are."""


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
    layout: Layout | None = None  # of the scale's chunks, where reading the indices told more of it


def scale_from_info(
    info: VolumeInfo,
    mip: int,
    *,
    where: str,
    layer: Layer = "image",
    window: GrayWindow | None = None,
) -> Scale:
    """Return one scale of a precomputed `info`, which must be of such a layer."""
    if mip >= len(info.scales):
        keys = ", ".join(scale.key for scale in info.scales)
        raise ValueError(f"{where}: no mip {mip}; the volume has {len(info.scales)}: {keys}")
    if info.num_channels != 1:
        raise ValueError(
            f"{where}: found {info.num_channels} channels of {info.data_type}, expected one; point "
            f"the config at the {LAYERS[layer]} layer"
        )
    dtype = read_dtype(info.data_type, layer, window, where=where)
    scale = info.scales[mip]
    grid = Grid(
        bounds=box_at(scale.voxel_offset[::-1], int_triple(scale.size[::-1])),
        chunk=int_triple(scale.chunk_sizes[0][::-1]),
        sharding=sharding_from_info(scale.sharding, where=where),
    )
    size = flip_triple(scale.resolution)
    return Scale(grid=grid, voxel_size_nm=size, encoding=scale.encoding, dtype=dtype)


def read_dtype(stored: str, layer: Layer, window: GrayWindow | None, *, where: str) -> str:
    """Return the type of the voxels that are read from a layer's stored ones.

    `NoWindowError`: an image of more than 8 bits, for which no window is stated.
    """
    is_whole = stored.removeprefix("u") in WHOLE_NUMBERS
    if is_whole and (layer == "values" or (layer == "segmentation" and stored != "uint8")):
        return stored
    if layer == "image" and (stored == "uint8" or (window is not None and is_whole)):
        return "uint8"
    if layer == "image" and is_whole and stored.endswith(("8", "16")):
        raise NoWindowError(f"{where}: found {stored}, expected uint8")
    expected = "uint8, or uint16 with volume.intensity" if layer == "image" else "uint64 or uint32"
    raise ValueError(
        f"{where}: found {stored}, expected {expected}; point the config at the {LAYERS[layer]} "
        "layer, or convert it"
    )


def scale_of_stack(shape: Triple, voxel_size_nm: TripleNm) -> Scale:
    """Return the scale of a stack of sections, of which each is read whole."""
    grid = Grid(bounds=Box((0, 0, 0), shape), chunk=(1, *shape[1:]), sharding=None)
    return Scale(grid=grid, voxel_size_nm=voxel_size_nm, encoding="tiff")
