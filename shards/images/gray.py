"""Image files as 8-bit voxels: the one place that converts their values.

c channels, z sections, y, x. Axes are letters as tifffile has them: C channels, S samples of a
pixel, and Z, T, I or Q for sections, planes in time, and planes of which the file says no more.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shards.images.gray_window import GrayWindow
from shards.images.limits import IMAGE_VARIABLE, max_image_bytes

Image = npt.NDArray[np.uint8]
Photometric = Literal["miniswhite", "minisblack", "rgb", "palette"]

SECTIONS = "ZTIQ"
CHANNELS = "CS"
DEPTHS = (1, 2, 4, 8)
OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
MOST_TEXT = 500  # what a damaged header says may be long
REDUCE = "convert it to 8-bit gray"


class ImageError(ValueError):
    """An image file that cannot be used: `reason` in a word, and what was found."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(found if len(found) <= MOST_TEXT else found[:MOST_TEXT] + "…")
        self.reason = reason


class DeepError(ImageError):
    """Gray values of more than 8 bits, without a window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Value type and meaning, as a file's header declares them.

    `bits` of a value; `palette` (n, 3) are the colors that values stand for; `alpha`: the last
    sample of each pixel is its opacity; `window` makes gray values of other integers than 8-bit.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: str = "uint8"
    bits: int = 8
    photometric: str = "minisblack"
    palette: Image | None = None
    alpha: bool = False
    window: GrayWindow | None = None

    def __post_init__(self) -> None:
        _check_values(self)
        _check_axes(self)

    @property
    def size_czyx(self) -> tuple[int, int, int, int]:
        """The image's channels, sections, rows and columns."""
        sizes = dict(zip(self.axes, self.shape, strict=True))
        channels = math.prod(sizes.get(axis, 1) for axis in CHANNELS) - self.alpha
        if self.palette is not None and not _is_gray(self.palette):
            channels *= 3
        sections = math.prod(sizes.get(axis, 1) for axis in SECTIONS)
        return channels, sections, sizes["Y"], sizes["X"]

    def check_gray(self) -> None:
        """Refuse more than one channel, by name."""
        if (channels := self.size_czyx[0]) == 1:
            return
        if self.palette is not None or self.photometric == "rgb":
            what = "a palette of colors" if self.palette is not None else "RGB color"
            raise ImageError("color", f"found {what}, expected gray; {REDUCE}")
        raise ImageError(
            "channels",
            f"found {channels} channels ({self}), expected one; store the EM channel alone, or, if "
            "these are sections, as a stack along z",
        )

    def __str__(self) -> str:
        return f"axes {self.axes}, {' x '.join(map(str, self.shape))}"


@contextmanager
def image_errors() -> Iterator[None]:
    """Turn whatever a decoder raises into an `ImageError`; a missing file stays what it is."""
    try:
        yield
    except (ImageError, FileNotFoundError):
        raise
    except Exception as error:  # noqa: BLE001  damaged files raise anything in tifffile and Pillow
        text = OBJECT.sub("the file", " ".join(str(error).split())) or type(error).__name__
        raise ImageError(
            "unreadable", f"not a readable image ({text}); copy it again, or save it anew"
        ) from None


def voxels(stored: Stored, values: npt.NDArray[Any]) -> Image:
    """Return stored values as an image (c, z, y, x): gray as it is shown, or red, green, blue."""
    if values.shape != stored.shape:
        raise ImageError("unreadable", f"its header says {stored.shape}, it holds {values.shape}")
    names = [axis for axis in stored.axes if axis in CHANNELS]
    names += [axis for axis in stored.axes if axis in SECTIONS]
    array = values.transpose([stored.axes.index(axis) for axis in (*names, "Y", "X")])
    _, *size_zyx = stored.size_czyx
    array = array.reshape(-1, *size_zyx)
    if stored.alpha:
        check_opaque(array[-1])
        array = array[:-1]
    if stored.palette is not None:
        return _through_palette(array, stored.palette)
    if stored.window is not None:
        image = stored.window.to_gray(array)
    else:
        image = array.astype(np.uint8, copy=False)
    if stored.bits < 8:
        image = image * np.uint8(255 // (2**stored.bits - 1))
    return ~image if stored.photometric == "miniswhite" else image


def check_opaque(alpha: npt.NDArray[Any]) -> None:
    """Refuse an image that is transparent somewhere."""
    if alpha.size and alpha.min() < 255:
        raise ImageError("transparent", "found transparent pixels; store it without transparency")


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse 8-bit values that would take more memory than one image may have."""
    try:
        limit = max_image_bytes()
    except ValueError as error:
        raise ImageError("limit", str(error)) from None
    if (size := math.prod(shape)) > limit:
        raise ImageError(
            "too_large",
            f"its header says {' x '.join(map(str, shape))}, which takes {size / 1e9:.2f} GB, more "
            f"than the {limit / 1e9:g} GB that one image may have; if that is right, raise "
            f"{IMAGE_VARIABLE}",
        )


def _check_values(stored: Stored) -> None:
    dtype = np.dtype(stored.dtype)
    is_gray = stored.photometric in ("miniswhite", "minisblack")
    is_deep = dtype.kind in "ui" and stored.bits == 8 * dtype.itemsize and is_gray
    if stored.window is not None and is_deep:
        return
    if dtype.kind not in "bu" or dtype.itemsize > 1 or stored.bits not in DEPTHS:
        kind = {"i": "signed integers", "f": "floating point", "c": "complex numbers"}
        what = kind.get(dtype.kind, "gray or color")
        error = DeepError if is_deep else ImageError
        raise error(
            "wrong_dtype", f"found {stored.bits}-bit {what} ({dtype}), expected uint8; {REDUCE}"
        )
    if stored.photometric not in ("miniswhite", "minisblack", "rgb", "palette"):
        raise ImageError(
            "color", f"found {stored.photometric} color, expected gray or RGB; {REDUCE}"
        )
    if (stored.photometric == "palette") != (stored.palette is not None):
        raise ImageError("unreadable", "a palette image without a palette")


def _check_axes(stored: Stored) -> None:
    found = f"found {stored}"
    if len(set(stored.axes)) < len(stored.axes) or not {"Y", "X"} <= set(stored.axes):
        raise ImageError("wrong_shape", f"{found}, expected y and x")
    if min(stored.shape) < 1:
        raise ImageError("wrong_shape", f"{found}: nothing in it")
    long = {axis for axis, size in zip(stored.axes, stored.shape, strict=True) if size > 1}
    for several, what in ((SECTIONS, "sections"), (CHANNELS, "channels")):
        if len(long & set(several)) > 1:
            raise ImageError(
                "wrong_shape", f"{found}, expected one axis of {what}; store one of them alone"
            )
    if unknown := long - set(SECTIONS + CHANNELS + "YX"):
        raise ImageError(
            "wrong_shape", f"{found}; axis {min(unknown)} means nothing here, store one part alone"
        )
    allowed = (1, 1 + stored.alpha) if stored.palette is not None else None
    samples = dict(zip(stored.axes, stored.shape, strict=True)).get("S", 1)
    if allowed and samples not in allowed:
        raise ImageError("wrong_shape", f"{found}: a palette image of {samples} values a pixel")


def _is_gray(palette: Image) -> bool:
    return bool((palette == palette[:, :1]).all())


def _through_palette(indices: npt.NDArray[Any], palette: Image) -> Image:
    if indices.max() >= len(palette):
        raise ImageError("unreadable", f"value {indices.max()}, its palette ends at {len(palette)}")
    if _is_gray(palette):
        return np.take(palette[:, 0], indices)
    return np.concatenate([np.take(palette[:, color], indices) for color in range(3)])
