"""Volumes to read from: a precomputed one, or a stack of TIFF sections."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from ingest.job.image_config import VolumeConfig
from ingest.volume.cloudvolume_reader import CloudVolumeReader, UnreadableError, fetch_info
from ingest.volume.files.image_folder import folder_identity
from ingest.volume.files.tiff_stack import Stack, TiffVolume, open_stack
from ingest.volume.geometry import Box
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import Image
from ingest.volume.ranges.precomputed import precomputed_volume
from ingest.volume.scale import Scale, StoredSizes, scale_from_info, scale_of_stack
from ingest.volume.volume_info import VolumeInfo, parse_info
from shards.contract.documents import read_bytes


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
    if config.format == "images":
        return {"kind": "volume", **folder_identity(config.path)}
    if config.format == "tiff":
        with closing(open_stack(config.path, config.missing)) as stack:
            return {"kind": "volume", "path": config.path, **stack.identity()}
    info = load_info(config, saved=saved)
    text = json.dumps(json.loads(info.text), sort_keys=True).encode()
    return {"kind": "volume", "path": config.path, "info_sha256": hashlib.sha256(text).hexdigest()}


def load_scale(config: VolumeConfig, mip: int, *, saved: bool) -> Scale:
    """Return what is known of one scale without reading voxels."""
    if config.format == "images":
        assert config.voxel_size_nm is not None
        return scale_of_stack((0, 0, 0), config.voxel_size_nm)  # they lie in no common frame
    if config.format == "tiff":
        with closing(open_stack(config.path, config.missing)) as stack:
            return _stack_scale(config, stack)
    return scale_from_info(load_info(config, saved=saved), mip, where=config.path)


def stored_sizes(config: VolumeConfig, mip: int, boxes: Iterable[Box]) -> StoredSizes | None:
    """Return the mean size of the stored chunks under boxes.

    None where it is not known: TIFF, a volume planned from a saved `info` or that CloudVolume
    reads, nothing stored there.
    """
    if config.format == "tiff" or config.info is not None or config.reader != "ranged":
        return None
    volume = precomputed_volume(Fetcher(config.path), load_info(config, saved=False), mip)
    with closing(volume):
        return volume.stored_sizes(boxes)


def open_volume(config: VolumeConfig, mip: int, *, concurrency: int, gap: int = 0) -> Volume:
    """Open one scale for reading, with so many requests at a time; one for each thread.

    `gap`: as the plan chose it, of a precomputed volume.
    """
    if config.format == "tiff":
        stack = open_stack(config.path, config.missing)
        return TiffVolume(stack, _stack_scale(config, stack))
    info = load_info(config, saved=False)
    if config.reader == "cloudvolume":
        return CloudVolumeReader(config.path, info, mip)
    return precomputed_volume(Fetcher(config.path, concurrency=concurrency), info, mip, gap=gap)


def reference_reader(config: VolumeConfig, mip: int) -> Callable[[Box], Image]:
    """Return another way to read boxes of a scale, to check `open_volume` by.

    It is CloudVolume's, or `open_volume`'s own where CloudVolume cannot read the volume.
    """
    if config.format == "tiff":
        return open_volume(config, mip, concurrency=1).read
    other = CloudVolumeReader(config.path, load_info(config, saved=False), mip)

    def read(box: Box) -> Image:
        try:
            return other.read(box)
        except UnreadableError:
            with closing(open_volume(config, mip, concurrency=1)) as own:
                return own.read(box)

    return read


def _stack_scale(config: VolumeConfig, stack: Stack) -> Scale:
    assert config.voxel_size_nm is not None
    return scale_of_stack(stack.shape, config.voxel_size_nm)
