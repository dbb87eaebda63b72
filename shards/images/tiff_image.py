"""A TIFF file's one image: what its header says, and its voxels."""

import logging
import math
import re
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile

from shards.images.gray import SECTIONS, Image, ImageError, Stored, check_size, image_errors, voxels
from shards.images.gray_window import GrayWindow

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors here say it, and once

JPEG = ("JPEG", "OJPEG", "ALT_JPEG", "JPEG_LOSSY")  # decoded into red, green and blue
OPACITY = (1, 2)  # kinds of extra samples
PHOTOMETRIC, ORIENTATION, COLOR_MAP = 262, 274, 320
# Tags that say what the values are: size, bits, compression, photometric, description, layout.
DECISIVE = {256, 257, 258, 259, 262, 266, 270, 274, 277, 284, 317, 320, 322, 323, 338, 339}
SHOWN_SERIES = 4
OME_FILE = re.compile(r"<(?:\w+:)?UUID[^>]*>\s*([^<\s]*)")
OME_SELF = re.compile(r"<(?:\w+:)?OME\b[^>]*\bUUID=[\"']([^\"']*)")
CUT = "it was cut off while it was written or copied; copy it again"


Ome = Literal["one file", "set", "ignore"]


class TiffImage:
    """An open TIFF file of one image. Not for several threads.

    `stored`, what its header says; `size_czyx`. An OME-TIFF may lie in one file, or in a set of
    which each file is read for itself, as if it were none (`ignore`), or all of them (`set`).
    `window` makes gray values of other integers than 8-bit. What is not one whole image is an
    `ImageError` that says what was found. Closed by `close()`, or
    when nothing refers to it any more.
    """

    @image_errors()
    def __init__(
        self, source: Path | IO[bytes], *, ome: Ome = "one file", window: GrayWindow | None = None
    ) -> None:
        is_ome = False if ome == "ignore" else None
        self._file = tifffile.TiffFile(source, is_ome=is_ome)
        self.close = weakref.finalize(self, self._file.close)
        try:
            if ome == "one file":
                _check_alone(self._file)
            self._series = _only_series(self._file)
            _check_whole(self._file, self._series)
            axes, shape = self._series.axes, self._series.shape
            self._window = window
            self.stored = _stored(self._series.keyframe, axes, shape, window)
            self.size_czyx = self.stored.size_czyx
        except BaseException:
            self.close()
            raise
        self._values: npt.NDArray[Any] | None = None
        pairs = zip(self.stored.axes, self.stored.shape, strict=True)
        long = "".join(axis for axis, size in pairs if size > 1)
        self._axis = next((axis for axis in long if axis in SECTIONS), "")
        self._section_by_section = long.startswith(self._axis)
        self._shape_of_one = tuple(
            1 if axis == self._axis else size
            for axis, size in zip(self.stored.axes, self.stored.shape, strict=True)
        )
        self._plane = math.prod(self._shape_of_one)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the image: several of an OME-TIFF that is stored so."""
        paths = {page.parent.filehandle.path for page in self._series if page is not None}
        return tuple(sorted(Path(path) for path in paths))

    @image_errors()
    def section(self, z: int) -> Image:
        """Return section z (c, y, x)."""
        if self._section_by_section and self._has_pages():
            return self._page(z)
        if self._section_by_section and self._series.dataoffset is not None:
            values = self._contiguous(z)
        else:
            if self._values is None:
                self._values = self._all_values()
            place = self.stored.axes.find(self._axis) if self._axis else 0
            values = self._values.take([z], axis=place) if self._axis else self._values
        one = replace(self.stored, shape=self._shape_of_one)
        return voxels(one, values.reshape(one.shape))[:, 0]

    @image_errors()
    def whole(self) -> Image:
        """Return the image (c, z, y, x)."""
        check_size((*self.stored.shape, self._series.dtype.itemsize))
        if self._section_by_section and self._has_pages() and not self._pages_are_alike():
            return np.stack([self._page(z) for z in range(self.size_czyx[1])], axis=1)
        return voxels(self.stored, self._all_values())

    def _has_pages(self) -> bool:
        """True if each section has a page of its own."""
        series, sections = self._series, self.size_czyx[1]
        there = series.is_multifile or len(self._file.pages) >= sections
        return there and len(series) == sections and math.prod(series.keyframe.shape) == self._plane

    def _pages_are_alike(self) -> bool:
        """True if all pages are known to be of one photometric interpretation and no palette."""
        if self._series.is_multifile or self.stored.palette is not None:
            return False
        kinds, offset = set(), self._series.keyframe.offset
        for _ in range(self.size_czyx[1]):
            if not offset:
                return False
            tags, offset = _directory(self._file, offset)
            kinds.add(tags.get(PHOTOMETRIC))
        return len(kinds) == 1

    def _page(self, z: int) -> Image:
        page: Any = self._series[z]
        with _open(page.parent.filehandle):
            page = page.aspage()  # a frame has its keyframe's palette
            if page.shape != self._series.keyframe.shape:
                raise ImageError("wrong_shape", f"section {z} is {page.shape}, {self.stored}")
            if page.dtype != self._series.dtype:
                raise ImageError(
                    "unreadable", f"section {z} is of {page.dtype}, the others of {self.stored}"
                )
            check_size((*page.shape, page.dtype.itemsize))
            stored = _stored(page, self.stored.axes, self._shape_of_one, self._window)
            if stored.size_czyx[0] != self.size_czyx[0]:
                raise ImageError("color", f"section {z} is gray, others color, or the reverse")
            return voxels(stored, page.asarray().reshape(stored.shape))[:, 0]

    def _contiguous(self, z: int) -> npt.NDArray[Any]:
        """Return the values of a section of a file whose first page is followed by all others."""
        file = self._series.keyframe.parent
        dtype = self._series.dtype.newbyteorder(file.byteorder)
        num_bytes = self._plane * dtype.itemsize
        check_size((num_bytes,))
        file.filehandle.seek(self._series.dataoffset + z * num_bytes)
        return np.frombuffer(file.filehandle.read(num_bytes), dtype)

    def _all_values(self) -> npt.NDArray[Any]:
        check_size((*self.stored.shape, self._series.dtype.itemsize))
        return np.asarray(self._series.asarray()).reshape(self.stored.shape)


@contextmanager
def _open(handle: tifffile.FileHandle) -> Iterator[None]:
    """Open a file of a set, which is closed while it is not read."""
    if not handle.closed:
        yield
        return
    handle.open()
    try:
        yield
    finally:
        handle.close()


def _only_series(file: tifffile.TiffFile) -> Any:
    """Return the series of a file that has one; copies of it at lower resolution do not count."""
    series = [one for one in file.series if not one.keyframe.is_reduced] or list(file.series)
    if not series:
        raise ImageError("unreadable", "no image in this TIFF file")
    if len(series) > 1:
        found = "; ".join(f"{one.axes} {one.shape}" for one in series[:SHOWN_SERIES])
        more = "; …" if len(series) > SHOWN_SERIES else ""
        raise ImageError(
            "several",
            f"found {len(series)} images (series) in one file: {found}{more}; which is meant is "
            "not known, store that one alone",
        )
    return series[0].levels[0]


def _check_alone(file: tifffile.TiffFile) -> None:
    """Refuse an OME-TIFF of which a part lies in other files, by its description."""
    text = file.ome_metadata or ""
    own = OME_SELF.search(text)
    if set(OME_FILE.findall(text)) - {own[1] if own else ""}:
        raise ImageError("several", "one file of an OME-TIFF in several; store it in one")


def _stored(page: Any, axes: str, shape: tuple[int, ...], window: GrayWindow | None) -> Stored:
    """Return what a page says of its values; `axes` and `shape` are those of all pages."""
    if (turn := page.tags.valueof(ORIENTATION, 1)) not in (0, 1):
        raise ImageError(
            "orientation", f"found orientation {int(turn)}, expected rows from the top; rotate it"
        )
    photometric, compression = page.photometric.name, page.compression.name
    if photometric == "YCBCR" and compression in JPEG:
        photometric = "RGB"
    extra = [int(kind) for kind in page.extrasamples]
    if any(kind in OPACITY for kind in extra[:-1]):
        raise ImageError("transparent", f"found {len(extra)} extra samples, one of them opacity")
    photometric = photometric.lower()
    return Stored(
        axes=axes.upper(),
        shape=tuple(shape),
        dtype=str(page.dtype),
        bits=page.bitspersample,
        photometric=photometric,
        palette=_palette(page) if photometric == "palette" else None,
        alpha=bool(extra) and extra[-1] in OPACITY,
        window=window,
    )


def _palette(page: Any) -> Image:
    if COLOR_MAP not in page.tags:
        raise ImageError("unreadable", "a palette image without a palette")
    colors = np.asarray(page.colormap).reshape(3, -1).T
    # 16 bits by the standard; some writers use 8 of them.
    return (colors >> 8 if colors.max(initial=0) > 255 else colors).astype(np.uint8)


def _check_whole(file: tifffile.TiffFile, series: Any) -> None:
    """Refuse a file that lacks a part of what its header states, or whose axes do not fit it."""
    stated_axes = (file.shaped_metadata or ({},))[0].get("axes") if file.is_shaped else None
    if stated_axes is not None and stated_axes != series.get_axes(squeeze=False):
        raise ImageError(
            "unreadable", f"its header states axes {stated_axes}, which do not fit {series.shape}"
        )
    plane = max(1, math.prod(series.keyframe.shape))
    held = there = len(file.pages)
    planes = math.prod(series.shape) // plane
    stated = max(planes, _stated_planes(file, plane))
    if series.is_multifile:
        there = sum(page is not None for page in series)
    elif held == 1 and series.dataoffset is not None:
        there = planes  # behind each other
    tags, following = _directory(file, file.pages.first.offset)
    if lost := tags.keys() & DECISIVE - set(file.pages.first.tags.keys()):
        raise ImageError("truncated", f"the value of its tag {min(lost)} is not there; {CUT}")
    if held > 1:
        _, following = _directory(file, file.pages[-1].offset)
    states = f"its header states {stated} sections, " if stated > held else ""
    if following:
        raise ImageError("truncated", f"{states}its list of pages breaks off after {held}; {CUT}")
    if there < stated:
        raise ImageError(
            "truncated", f"its header states {stated} sections, {there} are there; {CUT}"
        )
    if (inside := sum(len(level) for one in file.series for level in one.levels)) < held:
        raise ImageError("truncated", f"{held - inside} of its {held} pages hold no image; {CUT}")
    if series.dataoffset is not None:
        size = series.keyframe.parent.filehandle.size
        room = max(0, size - series.dataoffset) // (plane * series.dtype.itemsize)
        if room < planes:
            raise ImageError(
                "truncated", f"its header states {planes} sections, {room} are whole; {CUT}"
            )
        return
    for number, page in enumerate(series):
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        stored = sum(start > 0 and size > 0 for start, size in parts)  # others would read as 0
        beyond = max(map(sum, parts), default=0) > page.parent.filehandle.size
        if beyond or stored < math.prod(page.chunked):
            raise ImageError("truncated", f"section {number} of {planes} is not whole; {CUT}")


def _stated_planes(file: tifffile.TiffFile, plane: int) -> int:
    """Return how many pages ImageJ's or tifffile's own description states, 0 for none."""
    if file.is_imagej and file.pages.first.samplesperpixel == 1:
        return int((file.imagej_metadata or {}).get("images", 0))
    if file.is_shaped and file.shaped_metadata:
        return math.prod(map(int, file.shaped_metadata[0]["shape"])) // plane
    return 0


def _directory(file: tifffile.TiffFile, offset: int) -> tuple[dict[int, bytes], int]:
    """Return a directory's tags as they lie there, and where the next one starts, 0 for none."""
    handle, tiff = file.filehandle, file.tiff
    handle.seek(offset)
    (count,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
    tags = handle.read(count * tiff.tagsize)
    fields = struct.iter_unpack(f"{tiff.byteorder}H{tiff.tagsize - 2}s", tags)
    (following,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
    return dict(fields), following
