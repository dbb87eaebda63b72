"""zarr-python's own way to read an array: a check of ours."""

from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore, ObjectStore

from ingest.volume.arrays.stored_array import StoredArray
from ingest.volume.geometry import Box
from ingest.volume.ranges.byte_ranges import local_folder, open_store
from ingest.volume.ranges.chunk_codec import Voxels
from ingest.volume.scale import Scale
from shards.images.gray_window import GrayWindow
from shards.storage.patience import Link


class ZarrReference:
    """One scale, read box by box."""

    def __init__(
        self, path: str, array: StoredArray, scale: Scale, window: GrayWindow | None
    ) -> None:
        folder = local_folder(path)
        store: Any = (
            ObjectStore(open_store(Link(path)), read_only=True)
            if folder is None
            else LocalStore(folder, read_only=True)
        )
        self._array: Any = zarr.open_array(store, path=array.key, mode="r")
        self._stored, self._scale, self._window = array, scale, window

    def read(self, box: Box) -> Voxels:
        """Return the voxels of `box` as (c, z, y, x)."""
        place: list[int | slice] = [0] * self._array.ndim
        first = self._scale.grid.bounds.start
        spans = zip(self._stored.axes, box.start, box.stop, first, strict=True)
        for axis, low, high, origin in spans:
            place[axis] = slice(low - origin, high - origin)
        values = np.asarray(self._array[tuple(place)])
        voxels = values.transpose(*np.argsort(np.argsort(self._stored.axes)))[None]
        return voxels if self._window is None else self._window.to_gray(voxels)
