"""Every way to store 8-bit voxels gives them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from shards.images.decode import decoded, read_image_file
from shards.images.tiff_image import TiffImage
from tests.shards.images.image_files import RIGHT, STACK, picture, tiff


@pytest.mark.parametrize("name", RIGHT)
def test_an_image_file_gives_its_image(name: str, tmp_path: Path) -> None:
    make, expected = RIGHT[name]
    data = make()
    np.testing.assert_array_equal(decoded(data), expected)
    path = tmp_path / "image"
    path.write_bytes(data)
    whole = read_image_file(path)
    np.testing.assert_array_equal(whole.reshape(expected.shape), expected)
    if data[:2] in (b"II", b"MM"):
        file = TiffImage(path)
        sections = [file.section(z) for z in range(file.size_czyx[1])]
        file.close()
        np.testing.assert_array_equal(np.stack(sections, axis=1), whole)


def rotated(orientation: int) -> bytes:
    exif = Picture.Exif()
    exif[0x0112] = orientation
    return picture(STACK[0], "jpeg", exif=exif, quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_read_as_it_is_shown(orientation: int) -> None:
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }[orientation]
    expected = upright(decoded(rotated(1))[0])
    np.testing.assert_array_equal(decoded(rotated(orientation))[0], expected)
    assert np.abs(decoded(rotated(1))[0].astype(int) - STACK[0]).mean() < 9


def test_jpegs_and_jpeg_in_tiff_are_close() -> None:
    smooth = np.stack([np.add.outer(np.arange(64), np.arange(0, 128, 2)).astype(np.uint8)] * 3, -1)
    smooth[..., 1] //= 2
    smooth[..., 2] = 90
    for data in (
        picture(smooth, "jpeg", quality=95),
        picture(smooth, "tiff", compression="jpeg", quality=95),
        tiff(smooth, photometric="rgb", compression="jpeg"),
        tiff(smooth, photometric="rgb", compression="jpeg", subsampling=(2, 2)),
    ):
        found = np.moveaxis(decoded(data), 0, -1).astype(int)
        assert found.shape == smooth.shape
        assert np.abs(found - smooth).max() < 12
