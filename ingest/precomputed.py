"""A precomputed volume's `info`, and CloudVolume's way to read it: by choice, or as a check."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ingest.chunks import Image
from ingest.cut import read_each
from ingest.fetch import Fetcher
from ingest.geometry import Box
from ingest.scale import Layer, MissingDataError, scale_from_info


def fetch_info(path: str) -> Any:
    """Return the `info` of the volume at `path`."""
    found = Fetcher(path).file("info")
    if found is None:
        raise ValueError(f"{path}: no volume there (no `info`); correct volume.path in the config")
    try:
        return json.loads(bytes(found[0]))
    except ValueError as error:
        raise ValueError(f"{path}: its info is not JSON ({error}); it is no volume") from None


class CloudVolumeReader:
    """One scale, read box by box by CloudVolume's own way of finding voxels; a `Volume`."""

    def __init__(
        self, path: str, info: dict[str, Any], mip: int, *, layer: Layer = "image"
    ) -> None:
        from cloudvolume import CloudVolume  # takes seconds, and most workers never need it

        self.scale = scale_from_info(info, mip, where=path, layer=layer)
        self._volume = CloudVolume(
            cloud_path(path),
            mip=mip,
            info=info,
            bounded=True,
            fill_missing=layer == "segmentation",
            progress=False,
            parallel=1,
            cache=False,
            provenance={},
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing: CloudVolume does not say."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""

    def read(self, box: Box) -> Image:
        """Return the voxels of `box` as (c, z, y, x)."""
        from cloudvolume.exceptions import EmptyVolumeException

        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        try:
            cutout_xyzc = self._volume[x0:x1, y0:y1, z0:z1]
        except EmptyVolumeException as error:
            raise MissingDataError(f"{self._volume.cloudpath}: no data in {box}: {error}") from None
        return np.ascontiguousarray(np.asarray(cutout_xyzc).transpose(3, 2, 1, 0))

    def read_many(
        self, boxes: Iterable[Box], images: Iterable[Image] | None = None
    ) -> Iterator[Image | None]:
        """Yield the voxels of each box, in order; None where the volume holds none."""
        return read_each(self.read, boxes, images)


def cloud_path(path: str) -> str:
    """Return a path as CloudVolume wants it; a bare one is a folder here."""
    return path if "://" in path else f"file://{path}"
