"""A stack of TIFF sections as a volume."""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile

from ingest.chunks import Image
from ingest.cut import read_each
from ingest.geometry import Box, Triple
from ingest.scale import Scale
from shards.files import sha256_of_file

SUFFIXES = (".tif", ".tiff")
CACHE_BYTES = 512 << 20


class Stack(Protocol):
    """Sections of equal shape, uint8."""

    shape: Triple

    def section(self, z: int) -> Image:
        """Return section z (y, x)."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return sha256 and size of what is read."""
        ...


class StackFile:
    """One TIFF file of pages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _open(path) as file:
            series = file.series[0]
            shape = series.shape if len(series.shape) == 3 else (1, *series.shape)
            _check(path, shape, series.dtype, axes=3)
            self.shape: Triple = (shape[0], shape[1], shape[2])
            # Some writers store one page and the rest behind it: only the series knows these.
            by_page = len(series.pages) == shape[0]
            self._whole = None if by_page else series.asarray().reshape(shape)

    def section(self, z: int) -> Image:
        """Return section z (y, x)."""
        if self._whole is not None:
            return np.asarray(self._whole[z])
        with _open(self._path) as file:
            return np.asarray(file.asarray(key=z, series=0))

    def identity(self) -> dict[str, Any]:
        """Return sha256 and size of the file."""
        return {"sha256": sha256_of_file(self._path), "bytes": self._path.stat().st_size}


class StackFolder:
    """A folder with a TIFF file for each section, in the order of their names and numbers."""

    def __init__(self, folder: Path) -> None:
        files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        self._files = sorted(files, key=lambda path: _natural(path.name))
        if not self._files:
            raise ValueError(f"{folder}: 0 valid TIFF files ({', '.join(SUFFIXES)}) in it")
        sizes = [section_shape(path) for path in self._files]
        for path, size in zip(self._files, sizes, strict=True):
            if size != sizes[0]:
                raise ValueError(
                    f"{path}: section of {size}, but {self._files[0].name} has {sizes[0]}; "
                    "sections of a stack must be aligned and of one size"
                )
        self.shape: Triple = (len(self._files), *sizes[0])

    def section(self, z: int) -> Image:
        """Return section z (y, x)."""
        return np.asarray(tifffile.imread(self._files[z]))

    def identity(self) -> dict[str, Any]:
        """Return number and joint sha256 of the files."""
        digest = hashlib.sha256()
        for path in self._files:
            digest.update(f"{path.name} {sha256_of_file(path)}\n".encode())
        return {"sha256": digest.hexdigest(), "files": len(self._files)}


class TiffVolume:
    """A stack as a volume; keeps the sections it read last. Not for several threads."""

    def __init__(self, stack: Stack, scale: Scale) -> None:
        self.scale = scale
        self._stack = stack
        self._sections: OrderedDict[int, Image] = OrderedDict()
        self._room = max(1, CACHE_BYTES // (stack.shape[1] * stack.shape[2]))

    def read(self, box: Box) -> Image:
        """Return the voxels of `box` as (c, z, y, x)."""
        if not self.scale.grid.bounds.contains(box):
            raise ValueError(f"{box} lies outside the stack {self.scale.grid.bounds}")
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        return np.stack([self._section(z)[y0:y1, x0:x1] for z in range(z0, z1)])[None]

    def read_many(
        self, boxes: Iterable[Box], images: Iterable[Image] | None = None
    ) -> Iterator[Image | None]:
        """Yield the voxels of each box, in order."""
        return read_each(self.read, boxes, images)

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing: pages of a local file are not requests."""
        return {}

    def close(self) -> None:
        """Forget the sections."""
        self._sections.clear()

    def _section(self, z: int) -> Image:
        section = self._sections.get(z)
        if section is None:
            section = self._stack.section(z)
            while len(self._sections) >= self._room:
                self._sections.popitem(last=False)
        self._sections[z] = section
        self._sections.move_to_end(z)
        return section


def open_stack(path: str) -> Stack:
    """Open a TIFF file of pages or a folder of sections."""
    where = Path(path.removeprefix("file://"))
    if where.is_dir():
        return StackFolder(where)
    if not where.exists():
        raise ValueError(f"{where}: no such TIFF file or folder; correct volume.path")
    return StackFile(where)


def section_shape(path: Path) -> tuple[int, int]:
    """Return (y, x) of a file that holds one grey 8-bit section, from its header."""
    with _open(path) as file:
        series = file.series[0]
        _check(path, series.shape, series.dtype, axes=2)
        return series.shape[0], series.shape[1]


def _open(path: Path) -> tifffile.TiffFile:
    try:
        file = tifffile.TiffFile(path)
        len(file.series)
    except (tifffile.TiffFileError, IndexError, ValueError) as error:
        raise ValueError(f"{path}: 0 valid images: not a readable TIFF ({error})") from None
    if not file.series:
        raise ValueError(f"{path}: 0 valid images in this TIFF file")
    return file


def _check(path: Path, shape: tuple[int, ...], dtype: Any, *, axes: int) -> None:
    if len(shape) != axes or dtype != np.uint8:
        raise ValueError(
            f"{path}: found {dtype} {tuple(shape)}, expected uint8 with {axes} axes; "
            "convert it to 8-bit grey"
        )


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
