"""`index` of tars of image files: what streams is what each file shows."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shards.pack.import_webdataset import ForeignSpec, index_tars
from shards.stream.shardset import open_shards
from tests.shards.images.image_files import RIGHT, WRONG


def write_tar(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "PNG palette of gray", "PNG palette of color", "MinIsWhite", "MinIsWhite pages",
        "planar RGB TIFF", "opaque RGBA TIFF", "axes XYZ", "TIFF zstd", "ImageJ ZC", "PNG 4 bits",
        "PNG interlaced", "3 pixels wide",
    ],
)  # fmt: skip
def test_an_indexed_file_streams_as_it_is_shown(name: str, tmp_path: Path) -> None:
    make, expected = RIGHT[name]
    suffix = "png" if name.startswith("PNG") else "tif"
    data = make()
    url = str(write_tar(tmp_path / "set", {f"a.{suffix}": data, "a.cls": b"0"}))
    manifest = index_tars(url, ForeignSpec(class_names=("inhibitory", "excitatory")))
    assert manifest.image.shape == expected.shape
    with open_shards(url) as shards:
        np.testing.assert_array_equal(shards.read_images("train", [0])[0], expected)


@pytest.mark.parametrize("name", ["48-bit PNG", "16-bit PNG", "CMYK JPEG", "16-bit TIFF", "text"])
def test_an_indexed_file_that_is_no_8_bit_image(name: str, tmp_path: Path) -> None:
    make, message = WRONG[name]
    suffix = "png" if "PNG" in name else "jpg" if "JPEG" in name else "tif"
    url = str(write_tar(tmp_path / "set", {f"a.{suffix}": make(), "a.cls": b"0"}))
    with pytest.raises(ValueError, match=rf"train-0.tar.* a: .*{message}"):
        index_tars(url, ForeignSpec(class_names=("inhibitory", "excitatory")))
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["train-0.tar"]
