"""Image files of a formula, in every way that 8-bit voxels can be stored."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np
import tifffile
from PIL import Image as Picture

Z, Y, X = 5, 16, 24


def formula(z: int = Z, y: int = Y, x: int = X) -> np.ndarray:
    """Gray values (z, y, x) that no swap of axes and no inversion leaves as they are."""
    z_, y_, x_ = np.ogrid[:z, :y, :x]
    return ((3 * x_ + 5 * y_ + 11 * z_) % 251 + 1).astype(np.uint8)


STACK = formula()
CUBE = formula(X, X, X)
COLOR = np.stack([STACK[0], STACK[1], STACK[3]])
RAMP = np.arange(256, dtype=np.uint16) * 257


def tiff(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "minisblack", **options})
    return file.getvalue()


def imagej(array: np.ndarray, axes: str) -> bytes:
    return tiff(array, photometric=None, imagej=True, metadata={"axes": axes})


def thumbnails(sections: np.ndarray, *, first: bool) -> bytes:
    """Pages with a small one before or behind each."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for section in sections:
            pages = [(section, 0), (section[::4, ::4], 1)]
            for page, kind in reversed(pages) if first else pages:
                writer.write(page, photometric="minisblack", subfiletype=kind, metadata=None)
    return file.getvalue()


def pyramid(*, nested: bool) -> bytes:
    file, small = io.BytesIO(), STACK[:, ::2, ::2]
    with tifffile.TiffWriter(file) as writer:
        writer.write(STACK, photometric="minisblack", subifds=1 if nested else 0)
        writer.write(small, photometric="minisblack", subfiletype=1)
    return file.getvalue()


def pages(*images: Picture.Image) -> bytes:
    file = io.BytesIO()
    images[0].save(file, "TIFF", save_all=True, append_images=images[1:])
    return file.getvalue()


def own_palette(section: np.ndarray) -> Picture.Image:
    """A section whose palette is a shuffled gray ramp of its own."""
    order = np.random.default_rng(int(section[0, 0])).permutation(256).astype(np.uint8)
    picture = Picture.fromarray(np.argsort(order).astype(np.uint8)[section], "P")
    picture.putpalette(np.repeat(order, 3).tobytes())
    return picture


def picture(array: np.ndarray, kind: str = "png", mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(array, mode).save(file, kind, **options)
    return file.getvalue()


def palette_of(mode: str, colors: np.ndarray, indices: np.ndarray, **options: Any) -> bytes:
    image = Picture.fromarray(indices, mode)
    image.putpalette(colors.astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


def moved(source: str, target: str, array: np.ndarray) -> np.ndarray:
    return array.transpose([source.index(axis) for axis in target])


def axes(target: str, array: np.ndarray = STACK, **options: Any) -> Callable[[], bytes]:
    """A stack that is stored along other axes, and says so."""
    return lambda: tiff(moved("ZYX", target, array), metadata={"axes": target}, **options)


def mixed_pages() -> bytes:
    """Twelve pages of which the fifth is stored with white as 0, as a frame might not say."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number in range(12):
            kind = "miniswhite" if number == 4 else "minisblack"
            writer.write(STACK[0], photometric=kind, metadata=None, contiguous=False)
    return file.getvalue()


def png(depth: int, color: int, rows: list[bytes], *, adam7: bool = False) -> bytes:
    """A PNG by hand: `rows` are packed, 24 pixels wide and 16 high."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))

    head = struct.pack(">IIBBBBB", X, Y, depth, color, 0, 0, adam7)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """Rows of values of a few bits each."""
    each = np.unpackbits(values[..., None], axis=-1)[..., -bits:]
    return [np.packbits(row).tobytes() for row in each.reshape(len(values), -1)]


def adam7(image: np.ndarray) -> list[bytes]:
    """The rows of an interlaced image's seven passes."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    parts = [image[y::dy, x::dx] for y, x, dy, dx in (*passes, (1, 0, 2, 1))]
    return [row.tobytes() for part in parts for row in part]


NIBBLES = STACK[:, :, :16] % 16
# Name: how it is stored, and its image (c, y, x) or (c, z, y, x).
RIGHT: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    **{f"axes {a}": (axes(a), STACK[None]) for a in ("XYZ", "YXZ", "ZYX", "ZXY", "YZX", "XZY")},
    **{f"cube {a}": (axes(a, CUBE), CUBE[None]) for a in ("XYZ", "YXZ", "ZYX", "XZY")},
    "axes XYZ, zstd": (axes("XYZ", compression="zstd"), STACK[None]),
    "axes XY": (lambda: tiff(STACK[0].T, metadata={"axes": "XY"}), STACK[None, 0]),
    "axes QYX": (lambda: tiff(STACK), STACK[None]),
    "axes IYX": (lambda: tiff(STACK, metadata=None), STACK[None]),
    "one page": (lambda: tiff(STACK[0]), STACK[None, 0]),
    "BigTIFF": (lambda: tiff(STACK, bigtiff=True), STACK[None]),
    "big-endian": (lambda: tiff(STACK, byteorder=">"), STACK[None]),
    "tiles": (lambda: tiff(STACK, tile=(16, 16)), STACK[None]),
    "tiles of cubes": (lambda: tiff(STACK, tile=(2, 16, 16), volumetric=True), STACK[None]),
    "strips": (lambda: tiff(STACK, rowsperstrip=3), STACK[None]),
    **{
        f"TIFF {name}": (lambda name=name: tiff(STACK, compression=name), STACK[None])
        for name in ("lzw", "zlib", "zstd", "packbits", "lzma", "jpegxl", "png")
    },
    "TIFF zlib, predictor": (
        lambda: tiff(STACK, compression="zlib", predictor=True),
        STACK[None],
    ),
    "TIFF lzw, predictor": (lambda: tiff(STACK, compression="lzw", predictor=True), STACK[None]),
    "ImageJ Z": (lambda: imagej(STACK, "ZYX"), STACK[None]),
    "ImageJ T": (lambda: imagej(STACK, "TYX"), STACK[None]),
    "ImageJ C": (lambda: imagej(STACK[:3], "CYX"), STACK[:3]),
    "ImageJ ZC": (
        lambda: imagej(np.stack([STACK, STACK // 2], axis=1), "ZCYX"),
        np.stack([STACK, STACK // 2]),
    ),
    "OME": (lambda: tiff(STACK, ome=True, metadata={"axes": "ZYX"}), STACK[None]),
    "OME CZ": (
        lambda: tiff(np.stack([STACK, STACK // 2]), ome=True, metadata={"axes": "CZYX"}),
        np.stack([STACK, STACK // 2]),
    ),
    "MinIsWhite": (lambda: tiff(~STACK, photometric="miniswhite"), STACK[None]),
    "MinIsWhite pages": (
        lambda: tiff(~STACK, photometric="miniswhite", metadata=None),
        STACK[None],
    ),
    "palette of gray": (
        lambda: tiff(255 - STACK, photometric="palette", colormap=np.tile(RAMP[::-1], (3, 1))),
        STACK[None],
    ),
    "palette of color": (
        lambda: tiff(
            STACK[0],
            photometric="palette",
            colormap=np.stack([RAMP, RAMP[::-1], np.roll(RAMP, 7)]),
        ),
        np.stack([STACK[0], 255 - STACK[0], STACK[0] - np.uint8(7)]),
    ),
    "palette a page": (lambda: pages(*map(own_palette, STACK)), STACK[None]),
    "pages of Pillow": (lambda: pages(*map(Picture.fromarray, STACK)), STACK[None]),
    "RGB TIFF": (lambda: tiff(np.moveaxis(COLOR, 0, -1), photometric="rgb"), COLOR),
    "planar RGB TIFF": (
        lambda: tiff(COLOR, photometric="rgb", planarconfig="separate"),
        COLOR,
    ),
    "planar RGB TIFF, lzw": (
        lambda: tiff(COLOR, photometric="rgb", planarconfig="separate", compression="lzw"),
        COLOR,
    ),
    "opaque RGBA TIFF": (
        lambda: tiff(
            np.dstack([*COLOR, np.full((Y, X), 255, np.uint8)]),
            photometric="rgb",
            extrasamples=["unassalpha"],
        ),
        COLOR,
    ),
    "3 pixels high": (lambda: tiff(STACK[:, :3]), STACK[None, :, :3]),
    "3 pixels wide": (lambda: tiff(STACK[:, :, :3], metadata=None), STACK[None, :, :, :3]),
    "1-bit TIFF": (lambda: tiff(STACK[0] > 99), (STACK[None, 0] > 99) * np.uint8(255)),
    "4-bit TIFF": (lambda: tiff(NIBBLES[0], bitspersample=4), NIBBLES[None, 0] * np.uint8(17)),
    "nested pyramid": (lambda: pyramid(nested=True), STACK[None]),
    "thumbnail first": (lambda: thumbnails(STACK[:1], first=True), STACK[None, 0]),
    "a thumbnail for each section": (lambda: thumbnails(STACK, first=False), STACK[None]),
    "flat pyramid": (lambda: pyramid(nested=False), STACK[None]),
    "PNG": (lambda: picture(STACK[0]), STACK[None, 0]),
    "PNG RGB": (lambda: picture(np.moveaxis(COLOR, 0, -1)), COLOR),
    "PNG opaque RGBA": (
        lambda: picture(np.dstack([*COLOR, np.full((Y, X), 255, np.uint8)])),
        COLOR,
    ),
    "PNG gray + opaque alpha": (
        lambda: picture(np.dstack([STACK[0], np.full((Y, X), 255, np.uint8)])),
        STACK[None, 0],
    ),
    "PNG palette of gray": (
        lambda: palette_of("P", np.repeat(np.arange(255, -1, -1), 3), 255 - STACK[0]),
        STACK[None, 0],
    ),
    "PNG palette of color": (
        lambda: palette_of(
            "P", np.stack([np.arange(256), np.arange(255, -1, -1), np.arange(256)], 1), STACK[0]
        ),
        np.stack([STACK[0], 255 - STACK[0], STACK[0]]),
    ),
    "PNG palette of 4 bits": (
        lambda: palette_of("P", np.repeat(np.arange(0, 240, 15), 3), NIBBLES[0], bits=4),
        NIBBLES[None, 0] * np.uint8(15),
    ),
    "PNG 2 bits": (
        lambda: png(2, 0, packed(STACK[0] % 4, 2)),
        STACK[None, 0] % 4 * np.uint8(85),
    ),
    "PNG 4 bits": (
        lambda: png(4, 0, packed(STACK[0] % 16, 4)),
        STACK[None, 0] % 16 * np.uint8(17),
    ),
    "PNG interlaced": (lambda: png(8, 0, adam7(STACK[0]), adam7=True), STACK[None, 0]),
    "mixed pages": (
        mixed_pages,
        np.stack([~STACK[0] if z == 4 else STACK[0] for z in range(12)])[None],
    ),
    "PNG 1 bit": (lambda: picture(STACK[0] > 99), (STACK[None, 0] > 99) * np.uint8(255)),
}


def patched(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag that its first directory has."""
    file = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        found = tif.pages.first.tags[tag]
        file[found.valueoffset : found.valueoffset + 2] = value.to_bytes(2, "little")
    return bytes(file)


def two_series() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(STACK, photometric="minisblack")
        writer.write(STACK[:, :8, :8], photometric="minisblack")
    return file.getvalue()


DEEP = STACK.astype(np.uint16) * 257
WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "16-bit TIFF": (lambda: tiff(DEEP), r"16-bit gray or color \(uint16\), expected uint8"),
    "signed TIFF": (lambda: tiff(STACK.view(np.int8)), r"8-bit signed integers \(int8\)"),
    "float TIFF": (lambda: tiff(STACK.astype(np.float32)), "32-bit floating point"),
    "12-bit TIFF": (lambda: tiff(DEEP[0] >> 4, bitspersample=12), "12-bit gray or color"),
    "CMYK TIFF": (
        lambda: tiff(np.dstack([*COLOR, STACK[4]]), photometric="separated"),
        "found separated color",
    ),
    "CIELab TIFF": (lambda: tiff(np.dstack([*COLOR]), photometric="cielab"), "cielab color"),
    "transparent TIFF": (
        lambda: tiff(np.dstack([*COLOR, STACK[4]]), photometric="rgb", extrasamples=["unassalpha"]),
        "transparent pixels",
    ),
    "turned TIFF": (lambda: tiff(STACK[0], extratags=[(274, 3, 1, 6, True)]), "orientation 6"),
    "time and depth": (
        lambda: imagej(np.stack([STACK, STACK]), "TZYX"),
        "expected one axis of sections",
    ),
    "channels of color": (
        lambda: imagej(np.stack([np.moveaxis(COLOR, 0, -1)] * 2), "CYXS"),
        "expected one axis of channels",
    ),
    "two series": (two_series, r"found 2 images \(series\) in one file: QYX \(5, 16, 24\); QYX"),
    "48-bit PNG": (
        lambda: png(16, 2, [r.tobytes() for r in np.moveaxis(COLOR, 0, -1).astype(">u2")]),
        "16-bit gray or color",
    ),
    "16-bit gray and opacity PNG": (
        lambda: png(16, 4, [r.tobytes() for r in np.dstack([DEEP[0]] * 2)]),
        "16-bit gray or color",
    ),
    "16-bit PNG": (lambda: picture(DEEP[0]), "16-bit gray or color"),
    "transparent PNG": (lambda: picture(np.dstack([*COLOR, STACK[4]])), "transparent pixels"),
    "PNG with a key": (lambda: picture(STACK[0], transparency=9), "transparent pixels"),
    "PNG palette with opacity": (
        lambda: palette_of(
            "P", np.repeat(np.arange(256), 3), STACK[0], transparency=bytes([0] * 256)
        ),
        "transparent pixels",
    ),
    "CMYK JPEG": (
        lambda: picture(np.dstack([*COLOR, STACK[4]]), "jpeg", mode="CMYK"),
        "found CMYK color",
    ),
    "cut PNG": (lambda: picture(STACK[0])[:-60], "not a readable image"),
    "cut JPEG": (lambda: picture(STACK[0], "jpeg")[:-200], "not a readable image"),
    "GIF": (lambda: picture(STACK[0], "gif"), "starts with b'GIF8'"),
    "empty": (lambda: b"", "starts with b''"),
    "text": (lambda: b"no picture", "as no PNG, JPEG or TIFF file does"),
    "TIFF header alone": (lambda: b"II*\0", "not a readable image"),
    "TIFF without a page": (lambda: b"II*\0\0\0\0\0", "not a readable image|no image"),
    "TIFF of width 0": (lambda: patched(tiff(STACK[0]), 256, 0), "image"),
}
