"""What is no whole 8-bit image is refused by name: other values, cuts, damage and bombs."""

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import tifffile

from shards.decode import decoded, read_image_file
from shards.gray import ImageError
from tests.shards.image_files import (
    COLOR,
    RIGHT,
    STACK,
    X,
    Y,
    imagej,
    palette_of,
    patched,
    picture,
    png,
    tiff,
    two_series,
)

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


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_8_bit_image_is_named(name: str, tmp_path: Path) -> None:
    make, message = WRONG[name]
    (tmp_path / "image").write_bytes(make())
    for source in ((tmp_path / "image").read_bytes(), tmp_path / "image"):
        with pytest.raises(ImageError, match=message) as error:
            read_image_file(source)
        assert "\n" not in str(error.value)
        assert " object at " not in str(error.value)


def bombs() -> dict[str, bytes]:
    """Small files that say they are large."""
    flat = bytearray(png(8, 0, []))
    flat[16:24] = struct.pack(">II", 60_000, 60_000)
    flat[29:33] = struct.pack(">I", crc32(flat[12:29]))
    strip = tiff(np.zeros((4000, 4000), np.uint8), compression="zlib")
    return {
        "png": bytes(flat),
        "tiff": patched(patched(strip, 256, 60_000), 257, 60_000),
        "jpeg": picture(STACK[0], "jpeg").replace(
            struct.pack(">HH", Y, X), struct.pack(">HH", 60_000, 60_000), 1
        ),
    }


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg"])
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    message = r"60000 x 60000.* takes 34\d\d MB, more than the 1024 MB .* SYNSHARDS_MAX_IMAGE_MB"
    tracemalloc.start()
    with pytest.raises(ImageError, match=message):
        decoded(bombs()[kind])
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_the_limit_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture(np.zeros((1500, 1500), np.uint8))
    monkeypatch.setenv("SYNSHARDS_MAX_IMAGE_MB", "1")
    with pytest.raises(ImageError, match="which takes 2 MB, more than the 1 MB"):
        decoded(data)
    monkeypatch.setenv("SYNSHARDS_MAX_IMAGE_MB", "3")
    assert decoded(data).shape == (1, 1500, 1500)
    monkeypatch.setenv("SYNSHARDS_MAX_IMAGE_MB", "many")
    with pytest.raises(ImageError, match="SYNSHARDS_MAX_IMAGE_MB is 'many', expected a whole"):
        decoded(data)


def test_a_garbled_directory_is_one_line() -> None:
    rng = np.random.default_rng(0)
    sources = [tiff(STACK, metadata=None), imagej(STACK, "ZYX"), tiff(STACK, compression="lzw")]
    for number in range(300):
        data = bytearray(sources[number % 3])
        for place in rng.integers(0, min(len(data), 700), 3):
            data[place] = rng.integers(256)
        try:
            image = decoded(bytes(data))
        except ImageError as error:
            message = str(error)
        else:
            assert image.dtype == np.uint8
            continue
        assert "\n" not in message
        assert " object at " not in message


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize(
    "name", ["axes QYX", "axes IYX", "ImageJ Z", "ImageJ T", "OME", "TIFF lzw", "tiles", "BigTIFF"]
)
def test_a_cut_file_is_refused(name: str, part: float) -> None:
    data = RIGHT[name][0]()
    with pytest.raises(ImageError, match=r"truncated|cut off|not a readable|no image"):
        decoded(data[: int(len(data) * part)])


@pytest.mark.parametrize("kind", ["imagej", "shaped", "ome"])
def test_pages_that_the_header_states_and_the_file_lacks(kind: str) -> None:
    """The list of pages ends early, as if the file had never had more."""
    options: dict[str, Any] = {"compression": "zlib"} if kind != "imagej" else {}
    ome = tifffile.OmeXml()
    ome.addimage("uint8", STACK.shape, (5, 1, 1, 16, 24, 1), axes="ZYX")
    described = {
        "imagej": "ImageJ=1.11a\nimages=5\nslices=5\n",
        "shaped": '{"shape": [5, 16, 24]}',
        "ome": ome.tostring(),
    }[kind]
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for z, section in enumerate(STACK[:3]):
            text = None if z else described
            writer.write(
                section,
                photometric="minisblack",
                metadata=None,
                description=text and text.encode(),
                **options,
            )
    with pytest.raises(ImageError, match="header states 5 sections, 3 are there"):
        decoded(file.getvalue())
