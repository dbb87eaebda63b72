"""Images that others stored as PNG, JPEG or TIFF."""

import io
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
from PIL import ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from shards.images.gray import (
    REDUCE,
    Image,
    ImageError,
    Stored,
    check_opaque,
    check_size,
    image_errors,
    voxels,
)
from shards.images.tiff_image import TiffImage

EXTENSIONS = ("png", "jpg", "jpeg", "tif", "tiff")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
STARTS: dict[bytes, Callable[[BinaryIO], ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
}
MODES = {
    "1": "minisblack",
    "L": "minisblack",
    "LA": "minisblack",
    "I": "minisblack",
    "I;16": "minisblack",
    "I;16B": "minisblack",
    "P": "palette",
    "RGB": "rgb",
    "RGBA": "rgb",
}


def decoded(data: bytes) -> Image:
    """Return a file's image: (c, y, x), or (c, z, y, x) of a TIFF with several sections.

    Anything that is not an 8-bit image, gray or color, is a `ValueError` that says what it is.
    """
    image = read_image_file(data)
    return image[:, 0] if image.shape[1] == 1 else image


def read_image_file(source: bytes | Path, *, gray: bool = False) -> Image:
    """Return a file's image (c, z, y, x); with `gray` of one channel, or color is refused.

    `ImageError` says what is wrong with a file, not which file it is.
    """
    with (
        image_errors(),
        source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file,
    ):
        start = file.read(4)
        file.seek(0)
        if start in TIFF_STARTS:
            return _tiff(source if isinstance(source, Path) else file, gray=gray)
        for magic, kind in STARTS.items():
            if start.startswith(magic):
                return _picture(kind, file, gray=gray)
    raise ImageError(
        "unreadable",
        f"not a readable image: it starts with {start!r}, as no PNG, JPEG or TIFF file does; "
        "save it as one of these",
    )


def _tiff(source: Path | BinaryIO, *, gray: bool) -> Image:
    with closing(TiffImage(source)) as tiff:
        if gray:
            tiff.stored.check_gray()
        return tiff.whole()


def _picture(kind: Callable[[BinaryIO], ImageFile], file: BinaryIO, *, gray: bool) -> Image:
    """Return a PNG or JPEG; Pillow's classes are called themselves, for a limit of our own."""
    bits = _check_chunks(file) if kind is PngImageFile else 8
    file.seek(0)
    with kind(file) as picture:
        stored = _stored(picture, bits=max(8, bits))
        if gray:
            stored.check_gray()
        check_size(stored.shape)
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            raise ImageError("several", f"found an animation of {frames} images, expected one")
        if "transparency" in picture.info:
            check_opaque(np.asarray(picture.convert("RGBA"))[..., 3])
        upright = ImageOps.exif_transpose(picture)
        values = np.asarray(upright)
        turned = replace(stored, shape=values.shape)
        return voxels(turned, values)


def _check_chunks(file: BinaryIO) -> int:
    """Return how many bits a value of a PNG has, which Pillow cuts to 8 where they are colors.

    Every chunk's checksum must fit: Pillow looks at few of them.
    """
    depth, name = 0, b""
    file.seek(8)
    while name != b"IEND":
        length, name = struct.unpack(">I4s", file.read(8))
        data, checksum = file.read(length), file.read(4)
        if len(data) < length or checksum != crc32(data, crc32(name)).to_bytes(4, "big"):
            raise ImageError(
                "unreadable", f"not a readable image (chunk {name!r} is damaged); copy it again"
            )
        if name == b"IHDR":
            depth = data[8]
    return depth


def _stored(picture: ImageFile, *, bits: int) -> Stored:
    """Return what a PNG's or JPEG's header says; Pillow gives 2 and 4 bits as 8."""
    mode, (width, height) = picture.mode, picture.size
    if mode not in MODES:
        raise ImageError("color", f"found {mode} color, expected gray or RGB; {REDUCE}")
    bands = len(picture.getbands())
    palette = np.array(picture.getpalette("RGB") or [], np.uint8) if mode == "P" else None
    return Stored(
        axes="YXS" if bands > 1 else "YX",
        shape=(height, width, bands) if bands > 1 else (height, width),
        dtype=f"uint{bits}",
        bits=1 if mode == "1" else 16 if mode.startswith("I") else bits,
        photometric=MODES[mode],
        palette=None if palette is None else palette.reshape(-1, 3),
        alpha=mode in ("LA", "RGBA"),
    )
