"""Volumes to read from, of every format: their scales, sizes and readers."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import JsonValue

from ingest.job.image_config import VolumeConfig
from ingest.volume.arrays.array_levels import Level, load_levels
from ingest.volume.arrays.array_source import ArraySource
from ingest.volume.arrays.array_volume import array_scale, array_sizes
from ingest.volume.arrays.hdf5_volume import Hdf5Volume, hdf5_identity
from ingest.volume.arrays.zarr_reference import ZarrReference
from ingest.volume.cloudvolume_reader import CloudVolumeReader, UnreadableError, fetch_info
from ingest.volume.detect_format import with_format
from ingest.volume.files.image_folder import folder_identity
from ingest.volume.files.tiff_stack import Stack, TiffVolume, look_at_stack, open_stack
from ingest.volume.geometry import Box, box_at, int_triple
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import READABLE, Image
from ingest.volume.ranges.precomputed import precomputed_volume
from ingest.volume.ranges.range_reader import WINDOW_BYTES, RangedVolume
from ingest.volume.scale import (
    Layer,
    NoWindowError,
    Scale,
    StoredSizes,
    scale_from_info,
    scale_of_stack,
)
from ingest.volume.volume_info import VolumeInfo, parse_info
from shards.contract.documents import read_bytes
from shards.images.gray_window import GrayWindow, propose_window

LOOK_PLACES = 4  # along the volume's diagonal, where no window is stated
LOOK_SIZE = (16, 128, 128)


class Volume(Protocol):
    """A scale that can be read. Boxes must lie in `scale.grid.bounds`."""

    scale: Scale

    def read(self, box: Box) -> Image:
        """Return the voxels of `box` as (c, z, y, x); `MissingDataError` where there are none."""
        ...

    def read_many(
        self, boxes: Iterable[Box], images: Iterable[Image] | None = None
    ) -> Iterator[Image | None]:
        """Yield the voxels of each box, in order; None where the volume holds none.

        Boxes that are neighbours in the list share what they read. With `images`, an array
        (c, z, y, x) for each box, the voxels are written there.
        """
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """`requests` made and `bytes` fetched so far, where either means something."""
        ...

    def close(self) -> None:
        """Let go of files and threads."""
        ...


def load_info(config: VolumeConfig, *, saved: bool) -> VolumeInfo:
    """Return a precomputed volume's `info`: its own, or with `saved` the file that config names."""
    if not saved or config.info is None:
        return fetch_info(config.path)
    what, cure = "info of a volume", "correct volume.info in the config"
    return parse_info(read_bytes(Path(config.info), what=what, cure=cure), where=config.info)


def volume_identity(config: VolumeConfig, *, saved: bool) -> dict[str, JsonValue]:
    """Return what tells this volume from another, as a source of the data set."""
    config = with_format(config)
    if config.format == "images":
        return {"kind": "volume", **folder_identity(config.path)}
    return {"kind": "volume", "path": config.path, **_marks(config, saved=saved)}


def _marks(config: VolumeConfig, *, saved: bool) -> dict[str, JsonValue]:
    if config.format == "tiff":
        any_window = GrayWindow(low=0, high=255)  # whether one is needed is not asked here
        with closing(open_stack(config.path, config.missing, any_window)) as stack:
            return stack.identity()
    if config.format == "hdf5":
        return hdf5_identity(config.path)
    if config.format in ("zarr", "n5"):
        levels = load_levels(Fetcher(config.path), config.format, "image")
        return {"metadata_sha256": _sha256_of([level.documents for level in levels])}
    return {"info_sha256": _sha256_of(json.loads(load_info(config, saved=saved).text))}


def _sha256_of(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def load_scale(config: VolumeConfig, mip: int, *, saved: bool) -> Scale:
    """Return what is known of one scale of an image, for which few voxels are read at most."""
    scales = load_scales(config, saved=saved, mips=[mip])
    if mip not in scales:
        raise ValueError(f"{config.path}: no mip {mip}; the volume has one scale, 0")
    return scales[mip]


def load_scales(
    config: VolumeConfig,
    *,
    saved: bool,
    layer: Layer = "image",
    mips: Sequence[int] | None = None,
) -> dict[int, Scale]:
    """Return what is known of some scales, or all.

    Voxels of more than 8 bits for which the job states no window are a `NoWindowError` that
    proposes one, after a look at a few of them.
    """
    config = with_format(config)
    try:
        return _scales(config, saved, layer, mips)
    except NoWindowError as error:
        low, high = proposed = _proposed(config)
        raise NoWindowError(
            f"{error}; state `intensity: [low, high]` under volume, the values that become black "
            f"and white: [{low}, {high}] holds 99% of what a look at it found",
            proposed,
        ) from None


def _scales(
    config: VolumeConfig, saved: bool, layer: Layer, mips: Sequence[int] | None
) -> dict[int, Scale]:
    path, size = config.path, config.voxel_size_nm
    if config.format == "images":
        assert size is not None
        return {0: scale_of_stack((0, 0, 0), size)}  # they lie in no common frame
    if config.format == "tiff":
        with closing(open_stack(path, config.missing, config.window)) as stack:
            return {0: _stack_scale(config, stack)}
    if config.format == "hdf5":
        with closing(_hdf5(config, layer)) as volume:
            return {0: volume.scale}
    if config.format in ("zarr", "n5"):
        levels = load_levels(Fetcher(path), config.format, layer)
        chosen = range(len(levels)) if mips is None else mips
        return {mip: _array_scale(config, levels, mip, layer) for mip in chosen}
    info = load_info(config, saved=saved)
    chosen = range(len(info.scales)) if mips is None else mips
    window = config.window
    return {
        mip: scale_from_info(info, mip, where=path, layer=layer, window=window) for mip in chosen
    }


def _proposed(config: VolumeConfig) -> tuple[int, int]:
    """Return the window that most values of a few places lie in."""
    if config.format == "tiff":
        return propose_window(look_at_stack(config.path))
    with closing(open_volume(config, 0, concurrency=LOOK_PLACES, layer="values")) as volume:
        bounds = volume.scale.grid.bounds
        size = int_triple(np.minimum(bounds.shape, LOOK_SIZE))
        rest = np.subtract(bounds.shape, size) / (LOOK_PLACES + 1)
        places = range(1, LOOK_PLACES + 1)
        starts = [np.add(bounds.start, rest * place).astype(np.int64) for place in places]
        images = volume.read_many([box_at(start, size) for start in starts])
        return propose_window(np.stack([image for image in images if image is not None]))


def stored_sizes(
    config: VolumeConfig, mip: int, boxes: Iterable[Box], *, layer: Layer = "image"
) -> StoredSizes | None:
    """Return the mean size of the stored chunks under boxes.

    None where it is not known: TIFF, HDF5, a volume planned from a saved `info` or that CloudVolume
    reads, nothing stored there.
    """
    config = with_format(config)
    if config.format in ("zarr", "n5"):
        fetcher = Fetcher(config.path)
        levels = load_levels(fetcher, config.format, layer)
        scale = _array_scale(config, levels, mip, layer)
        return array_sizes(fetcher, levels[mip], scale, boxes)
    if config.format != "precomputed" or config.info is not None:
        return None
    volume = _precomputed(config, mip, Fetcher(config.path), layer)
    with closing(volume):
        return volume.stored_sizes(boxes) if isinstance(volume, RangedVolume) else None


def open_volume(
    config: VolumeConfig,
    mip: int,
    *,
    concurrency: int,
    gap: int = 0,
    layer: Layer = "image",
    window_bytes: int = WINDOW_BYTES,
) -> Volume:
    """Open one scale for reading, with so many requests at a time; one for each thread.

    `gap`: as the plan chose it. A segmentation's voxels are ids of segments. `window_bytes`: of
    images that are read together.
    """
    config = with_format(config)
    if config.format == "tiff":
        stack = open_stack(config.path, config.missing, config.window)
        return TiffVolume(stack, _stack_scale(config, stack))
    if config.format == "hdf5":
        return _hdf5(config, layer)
    if config.format in ("zarr", "n5"):
        levels = load_levels(Fetcher(config.path), config.format, layer)
        fetcher = Fetcher(config.path, concurrency=concurrency)  # it counts what voxels cost alone
        scale = _array_scale(config, levels, mip, layer)
        window = config.window if layer == "image" else None
        source = ArraySource(levels[mip].array, fetcher, gap=gap, window=window)
        return RangedVolume(scale, source, fetcher, window_bytes=window_bytes)
    fetcher = Fetcher(config.path, concurrency=concurrency)
    return _precomputed(config, mip, fetcher, layer, gap=gap, window_bytes=window_bytes)


def reference_reader(config: VolumeConfig, mip: int) -> Callable[[Box], Image]:
    """Return another way to read boxes of a scale, to check `open_volume` by.

    It is CloudVolume's or zarr-python's, or `open_volume`'s own where neither can read the volume.
    """
    config = with_format(config)
    if config.format == "zarr":
        levels = load_levels(Fetcher(config.path), "zarr", "image")
        scale = _array_scale(config, levels, mip, "image")
        return ZarrReference(config.path, levels[mip].array, scale, config.window).read
    if config.format != "precomputed":
        return open_volume(config, mip, concurrency=1).read
    info = load_info(config, saved=False)
    other = CloudVolumeReader(config.path, info, mip, window=config.window)

    def read(box: Box) -> Image:
        try:
            return other.read(box)
        except UnreadableError:
            with closing(open_volume(config, mip, concurrency=1)) as own:
                return own.read(box)

    return read


def _precomputed(
    config: VolumeConfig,
    mip: int,
    fetcher: Fetcher,
    layer: Layer,
    *,
    gap: int = 0,
    window_bytes: int = WINDOW_BYTES,
) -> RangedVolume | CloudVolumeReader:
    """Open a precomputed volume; a segmentation by CloudVolume if only that can decode it."""
    info = load_info(config, saved=False)
    window = config.window if layer == "image" else None
    readable = layer == "image" or all(scale.encoding in READABLE for scale in info.scales)
    if config.reader == "cloudvolume" or not readable:
        return CloudVolumeReader(config.path, info, mip, layer=layer, window=window)
    return precomputed_volume(
        fetcher, info, mip, layer=layer, gap=gap, window=window, window_bytes=window_bytes
    )


def _hdf5(config: VolumeConfig, layer: Layer) -> Hdf5Volume:
    window = config.window if layer == "image" else None
    return Hdf5Volume(config.path, layer=layer, stated_nm=config.voxel_size_nm, window=window)


def _array_scale(config: VolumeConfig, levels: Sequence[Level], mip: int, layer: Layer) -> Scale:
    return array_scale(
        levels,
        mip,
        where=config.path,
        layer=layer,
        stated_nm=config.voxel_size_nm,
        window=config.window,
    )


def _stack_scale(config: VolumeConfig, stack: Stack) -> Scale:
    assert config.voxel_size_nm is not None
    return scale_of_stack(stack.shape, config.voxel_size_nm)
