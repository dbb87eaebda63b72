"""A stack of TIFF sections as a volume."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile
from pydantic import JsonValue

from ingest.volume.files.section_numbers import holes, in_order
from ingest.volume.geometry import Box, Triple
from ingest.volume.ranges.chunk_codec import Image
from ingest.volume.sample_boxes import BoxByBox
from ingest.volume.scale import MissingDataError, NoWindowError, Scale
from shards.images.gray import DeepError, ImageError
from shards.images.gray_window import GrayWindow
from shards.images.tiff_image import Ome, TiffImage
from shards.storage.atomic import sha256_of_file

SUFFIXES = (".tif", ".tiff")
CACHE_BYTES = 512 << 20
SHOWN_HOLES = 5

Missing = Literal["error", "blank"]


class StackFile:
    """One TIFF file of sections, or the first of those that hold one OME-TIFF."""

    def __init__(self, path: Path, window: GrayWindow | None) -> None:
        self._path, self._file = path, _opened(path, ome="set", window=window)
        self.shape: Triple = self._file.size_czyx[1:]

    def section(self, z: int) -> Image:
        """Return section z (y, x)."""
        with _named(self._path):
            return np.asarray(self._file.section(z)[0])

    def identity(self) -> dict[str, JsonValue]:
        """Return sha256 and size of the file or files."""
        files = self._file.files
        if len(files) > 1:
            return _identity_of(files)
        return {"sha256": sha256_of_file(self._path), "bytes": self._path.stat().st_size}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StackFolder:
    """A folder with a TIFF file for each section, in the order of the numbers in their names.

    A number that is missing between two others is an error, or with `missing` blank a section
    that is not there.
    """

    def __init__(self, folder: Path, missing: Missing, window: GrayWindow | None) -> None:
        self._window = window
        files = [path for path in folder.iterdir() if _is_section(path)]
        if not files:
            raise ValueError(f"{folder}: 0 valid TIFF files ({', '.join(SUFFIXES)}) in it")
        self._files = in_order(sorted(files))
        self._first = min(self._files)
        self._missing = _missing_of(folder, list(self._files), missing)
        sizes = {path: section_shape(path, window) for path in self._files.values()}
        first, size = next(iter(sizes.items()))
        for path, other in sizes.items():
            if other != size:
                raise ValueError(
                    f"{path}: section of {other}, but {first.name} has {size}; "
                    "sections of a stack must be aligned and of one size"
                )
        self.shape: Triple = (len(self._files) + len(self._missing), *size)

    def section(self, z: int) -> Image | None:
        """Return section z (y, x), None where it is missing."""
        path = self._files.get(self._first + z)
        if path is None:
            return None
        with _named(path), closing(TiffImage(path, ome="ignore", window=self._window)) as file:
            return np.asarray(file.section(0)[0])

    def identity(self) -> dict[str, JsonValue]:
        """Return number and joint sha256 of the files, and which sections are missing."""
        identity = _identity_of(self._files.values())
        return {**identity, "missing_sections": [*self._missing]} if self._missing else identity

    def close(self) -> None:
        """Nothing: files are open only while they are read."""


Stack = StackFile | StackFolder


class TiffVolume(BoxByBox):
    """A stack as a volume; keeps the sections it read last. Not for several threads."""

    def __init__(self, stack: Stack, scale: Scale) -> None:
        self.scale = scale
        self._stack = stack
        room = max(1, CACHE_BYTES // (stack.shape[1] * stack.shape[2]))
        self._section = lru_cache(room)(stack.section)

    def read(self, box: Box) -> Image:
        """Return the voxels of `box` as (c, z, y, x); a section that is missing is black.

        `MissingDataError` if it is the middle one, which the sample is about.
        """
        if not self.scale.grid.bounds.contains(box):
            raise ValueError(f"{box} lies outside the stack {self.scale.grid.bounds}")
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        sections = [self._section(z) for z in range(z0, z1)]
        if sections[len(sections) // 2] is None:
            raise MissingDataError(f"no data in {box}: its middle section is missing")
        image = np.zeros((1, *box.shape), np.uint8)
        for plane, section in zip(image[0], sections, strict=True):
            if section is not None:
                plane[...] = section[y0:y1, x0:x1]
        return image

    def close(self) -> None:
        """Forget the sections and close the files."""
        self._section.cache_clear()
        self._stack.close()


def open_stack(path: str, missing: Missing, window: GrayWindow | None = None) -> Stack:
    """Open a TIFF file of sections or a folder of section files.

    `window` makes gray values of other integers than 8-bit; without it they are a `NoWindowError`.
    """
    where = Path(path.removeprefix("file://"))
    if where.is_dir():
        return StackFolder(where, missing, window)
    if not where.exists():
        raise ValueError(f"{where}: no such TIFF file or folder; correct volume.path")
    return StackFile(where, window)


def look_at_stack(path: str) -> npt.NDArray[Any]:
    """Return the values of a section in the middle, as they are stored."""
    where = Path(path.removeprefix("file://"))
    if where.is_dir():
        files = sorted(file for file in where.iterdir() if _is_section(file))
        where = files[len(files) // 2]
    with tifffile.TiffFile(where) as file:
        return np.asarray(file.asarray(key=len(file.pages) // 2))


def section_shape(path: Path, window: GrayWindow | None = None) -> tuple[int, int]:
    """Return (y, x) of a file that holds one gray section, from its header."""
    with closing(_opened(path, ome="ignore", window=window)) as file:
        _, sections, *plane = file.size_czyx
        if sections != 1:
            raise ValueError(
                f"{path}: found {sections} sections ({file.stored}), but in a folder a file is one "
                "section; give the file itself as volume.path, or store each section by itself"
            )
        return plane[0], plane[1]


def _missing_of(folder: Path, numbers: list[int], missing: Missing) -> list[int]:
    """Return the numbers of the sections that are not there, if that is allowed."""
    count = max(numbers) - min(numbers) + 1 - len(numbers)
    if count and (missing == "error" or count > len(numbers)):
        first = ", ".join(map(str, islice(holes(numbers), SHOWN_HOLES)))
        cure = "put back what is missing"
        if missing == "error":
            cure += ", or set `missing: blank` under volume, which takes it for missing data"
        else:
            cure += ", or number the sections through: more are missing than are there"
        raise ValueError(
            f"{folder}: section {first}{', …' if count > SHOWN_HOLES else ''} is missing: the "
            f"files are numbered {min(numbers)} to {max(numbers)}, and {len(numbers)} of these "
            f"{len(numbers) + count} are there; {cure}"
        )
    return list(holes(numbers))


def _is_section(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _identity_of(files: Iterable[Path]) -> dict[str, JsonValue]:
    digest, count = hashlib.sha256(), 0
    for path in files:
        digest.update(f"{path.name} {sha256_of_file(path)}\n".encode())
        count += 1
    return {"sha256": digest.hexdigest(), "files": count}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in errors about it."""
    try:
        yield
    except DeepError as error:
        what, _, _ = str(error).partition(";")  # the cure here is another
        raise NoWindowError(f"{path}: {what}") from None
    except ImageError as error:
        none = "0 valid images: " if error.reason == "unreadable" else ""
        raise ValueError(f"{path}: {none}{error}") from None
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; put it back, or plan again") from None


def _opened(path: Path, *, ome: Ome, window: GrayWindow | None) -> TiffImage:
    with _named(path):
        file = TiffImage(path, ome=ome, window=window)
        try:
            file.stored.check_gray()
        except ImageError:
            file.close()
            raise
        return file
