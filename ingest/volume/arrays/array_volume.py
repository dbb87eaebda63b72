"""Zarr and N5 volumes: their scales, and how large what they store is."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace

from ingest.volume.arrays.array_levels import Level
from ingest.volume.arrays.array_source import ArraySource
from ingest.volume.arrays.metadata.voxel_sizes import first_voxel, size_of
from ingest.volume.geometry import Box, TripleNm, box_at
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_grid import Grid
from ingest.volume.ranges.range_reader import RangedVolume
from ingest.volume.scale import Layer, Scale, StoredSizes, read_dtype
from shards.images.gray_window import GrayWindow


def array_scale(
    levels: Sequence[Level],
    mip: int,
    *,
    where: str,
    layer: Layer,
    stated_nm: TripleNm | None,
    window: GrayWindow | None,
) -> Scale:
    """Return one scale; `stated_nm`: the finest's voxels (z, y, x), where the job states them."""
    if mip >= len(levels):
        names = ", ".join(level.array.key or "the array itself" for level in levels)
        raise ValueError(f"{where}: no mip {mip}; the volume has {len(levels)}: {names}")
    array, placed = levels[mip].array, levels[mip].placed
    bounds = box_at(first_voxel(placed, where=where), array.shape)
    return Scale(
        grid=Grid(bounds=bounds, chunk=array.chunk, sharding=array.shards),
        voxel_size_nm=size_of(placed, stated_nm, is_finest=mip == 0, where=where),
        encoding="array",
        dtype=read_dtype(array.dtype.newbyteorder("=").name, layer, window, where=where),
    )


def array_sizes(
    fetcher: Fetcher, level: Level, scale: Scale, boxes: Iterable[Box]
) -> StoredSizes | None:
    """Return the mean size of stored chunks under boxes, and how their shards are written."""
    source = ArraySource(level.array, fetcher, gap=0, window=None)
    with closing(RangedVolume(scale, source, fetcher)) as volume:
        sizes = volume.stored_sizes(boxes)
    return None if sizes is None else replace(sizes, layout=source.written)
