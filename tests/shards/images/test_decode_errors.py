"""What is no whole 8-bit image is refused by name: other values, cuts, damage and bombs."""

import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import tifffile

from shards.images.decode import decoded, read_image_file
from shards.images.gray import ImageError
from tests.shards.images.image_files import (
    RIGHT,
    STACK,
    WRONG,
    X,
    Y,
    imagej,
    patched,
    picture,
    png,
    tiff,
)


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
    strip = tiff(np.zeros((300, 300), np.uint8), compression="zlib", rowsperstrip=300)
    return {
        "png": bytes(flat),
        "tiff": patched(patched(patched(strip, 256, 60_000), 257, 60_000), 278, 60_000),
        "jpeg": picture(STACK[0], "jpeg").replace(
            struct.pack(">HH", Y, X), struct.pack(">HH", 60_000, 60_000), 1
        ),
    }


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg"])
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    message = r"60000 x 60000.* takes 3.60 GB, more than the 2 GB .* SYNSHARDS_IMAGE_GB"
    tracemalloc.start()
    with pytest.raises(ImageError, match=message):
        decoded(bombs()[kind])
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_the_limit_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture(np.zeros((1500, 1500), np.uint8))
    monkeypatch.setenv("SYNSHARDS_IMAGE_GB", "0.001")
    with pytest.raises(ImageError, match=r"which takes 0.00 GB, more than the 0.001 GB"):
        decoded(data)
    monkeypatch.setenv("SYNSHARDS_IMAGE_GB", "0.003")
    assert decoded(data).shape == (1, 1500, 1500)
    monkeypatch.setenv("SYNSHARDS_IMAGE_GB", "many")
    with pytest.raises(ImageError, match=r"^SYNSHARDS_IMAGE_GB is 'many', expected a number"):
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
