"""An array of an HDF5 file on this machine, read by h5py: CREMI's layout and its kin.

A path may go on inside of the file, as sample_A.hdf/volumes/raw.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import JsonValue

from ingest.volume.arrays.metadata.choose_array import Candidate, choose_array
from ingest.volume.arrays.metadata.voxel_sizes import first_voxel, placed_by_attributes, size_of
from ingest.volume.arrays.stored_array import find_axes
from ingest.volume.geometry import Box, TripleNm, box_at, int_triple
from ingest.volume.ranges.chunk_codec import Voxels
from ingest.volume.ranges.chunk_grid import Grid
from ingest.volume.sample_boxes import BoxByBox
from ingest.volume.scale import Layer, Scale, read_dtype
from shards.images.gray_window import GrayWindow

CACHE_BYTES = 512 << 20  # of chunks that h5py has decoded
CACHE_SLOTS = 10_007
NO_CHUNKS = (16, 64, 64)  # by which a plan counts an array that is stored in one piece
HASHED_BYTES = 1 << 24  # at either end of a file


class Hdf5Volume(BoxByBox):
    """One array as a volume; a chunk that is not stored holds its fill value."""

    def __init__(
        self,
        path: str,
        *,
        layer: Layer = "image",
        stated_nm: TripleNm | None = None,
        window: GrayWindow | None = None,
    ) -> None:
        self._file, self._array, self.where = _opened(path, layer)
        try:
            self._axes = find_axes(_names(self._array), self._array.shape, where=self.where)
            self.scale = self._scale(layer, stated_nm, window)
        except BaseException:
            self.close()
            raise
        self._window = window

    def read(self, box: Box) -> Voxels:
        """Return the voxels of `box` as (c, z, y, x)."""
        if not self.scale.grid.bounds.contains(box):
            raise ValueError(f"{self.where}: {box} is not within {self.scale.grid.bounds}")
        place: list[int | slice] = [0] * self._array.ndim
        first = self.scale.grid.bounds.start
        for axis, low, high, origin in zip(self._axes, box.start, box.stop, first, strict=True):
            place[axis] = slice(low - origin, high - origin)
        with _read_errors(self.where):
            values = np.asarray(self._array[tuple(place)])
        order = np.argsort(np.argsort(self._axes))
        voxels = values.transpose(*order)[None]
        if self._window is not None:
            return self._window.to_gray(voxels)
        return np.ascontiguousarray(voxels.astype(self.scale.dtype, copy=False))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scale(self, layer: Layer, stated_nm: TripleNm | None, window: GrayWindow | None) -> Scale:
        array, where = self._array, self.where
        attributes = {name: _plain(value) for name, value in array.attrs.items()}
        placed = placed_by_attributes(
            attributes, self._axes, array.ndim, x_first=False, where=where
        )
        shape = int_triple([array.shape[axis] for axis in self._axes])
        chunk = NO_CHUNKS
        if array.chunks is not None:
            chunk = int_triple([array.chunks[axis] for axis in self._axes])
        bounds = box_at(first_voxel(placed, where=where), shape)
        return Scale(
            grid=Grid(bounds=bounds, chunk=chunk, sharding=None),
            voxel_size_nm=size_of(placed, stated_nm, is_finest=True, where=where),
            encoding="array",
            dtype=read_dtype(array.dtype.name, layer, window, where=where),
        )


def hdf5_identity(path: str) -> dict[str, JsonValue]:
    """Return the file's size, and the joint sha256 of its first and last bytes."""
    file = inside_of(path)[0]
    size, digest = file.stat().st_size, hashlib.sha256()
    with file.open("rb") as data:
        digest.update(data.read(HASHED_BYTES))
        data.seek(max(0, size - HASHED_BYTES))
        digest.update(data.read(HASHED_BYTES))
    return {"bytes": size, "ends_sha256": digest.hexdigest()}


def inside_of(path: str) -> tuple[Path, str]:
    """Return the file that a path names or passes through, and the path of an array in it."""
    if "://" in path and not path.startswith("file://"):
        raise ValueError(
            f"{path}: HDF5 is read from files of this machine; copy it here, or convert it to "
            "OME-Zarr, which is read from where it is"
        )
    whole = Path(path.removeprefix("file://"))
    for file in (whole, *whole.parents):
        if file.is_file():
            return file, whole.relative_to(file).as_posix().removeprefix(".")
    raise ValueError(f"{whole}: no such HDF5 file; correct volume.path")


def _opened(path: str, layer: Layer) -> tuple[Any, Any, str]:
    """Return the open file, the array in it, and both as errors name them."""
    path_of_file, key = inside_of(path)
    where = str(path_of_file)
    try:
        file = h5py.File(path_of_file, "r", rdcc_nbytes=CACHE_BYTES, rdcc_nslots=CACHE_SLOTS)
    except OSError as error:
        raise ValueError(
            f"{where}: no HDF5 file that can be opened ({_text(error)}); copy it again, or correct "
            "volume.path and volume.format"
        ) from None
    try:
        with _read_errors(where):
            key = _key_of(file, key, layer, where=where)
            return file, file[key], f"{where}/{key}"
    except BaseException:
        file.close()
        raise


def _key_of(file: Any, key: str, layer: Layer, *, where: str) -> str:
    """Return the path of the array that is meant; a group may hold one that could be it."""
    start = file.get(key) if key else file
    if start is None:
        listed = _candidates(file, "")
        shown = ", ".join(f"{name} ({what})" for name, what in listed.items()) or "none"
        raise ValueError(f"{where}: no {key} in it; found the arrays {shown}")
    if isinstance(start, h5py.Dataset):
        return key
    return choose_array(_candidates(start, key), layer, where=where)


def _candidates(group: Any, prefix: str) -> dict[str, Candidate]:
    found = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim > 1:
            key = f"{prefix}/{name}".strip("/")
            found[key] = Candidate(
                shape=item.shape, dtype=item.dtype.name, itemsize=item.dtype.itemsize
            )

    group.visititems(visit)
    return found


def _names(array: Any) -> list[str] | None:
    """Return the labels of the dimensions, None where they have none."""
    labels = [str(dimension.label) for dimension in array.dims]
    return labels if any(labels) else None


def _plain(value: Any) -> JsonValue:
    """Return an attribute as JSON has it."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


@contextmanager
def _read_errors(where: str) -> Iterator[None]:
    """Name the file in what h5py raises for a damaged one."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{where}: cannot be read ({_text(error)}): it is damaged, or compressed by a filter "
            "that h5py lacks; copy it again, or store it with gzip"
        ) from None


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
