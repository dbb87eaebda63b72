"""Tars that others wrote stream once they are indexed."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
import webdataset
from PIL import Image

from shards.__main__ import main
from shards.cli.command import run_command
from shards.pack.import_webdataset import ForeignSpec, index_tars
from shards.pack.verify import verify
from shards.stream.shardset import open_shards
from shards.stream.stream import Stream, evaluation_batches

pytestmark = pytest.mark.timeout(60)


def write(path: Path, images: np.ndarray, first: int, **more: object) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for number, image in enumerate(images, start=first):
            writer.write(
                {
                    "__key__": f"some/where-{number}",
                    "vol.npy": image,
                    "cls": number % 3,
                    "json": {"neuron_id": number // 2, "size": None},
                    **more,
                }
            )


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 1, 4, 6, 5), dtype=np.uint8)


def test_another_set_streams(tmp_path: Path, images: np.ndarray) -> None:
    write(tmp_path / "train_a.tar", images[:12], 0)
    write(tmp_path / "train_b.tar", images[12:25], 12)
    write(tmp_path / "validation.tar", images[25:], 25)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    manifest = index_tars(str(tmp_path), ForeignSpec(class_names=("a", "b", "c")))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert manifest.splits["val"].num_samples == 5
    np.testing.assert_allclose(manifest.mean, images[:25].mean())
    assert verify(str(tmp_path)) == []
    with (
        open_shards(str(tmp_path)) as shards,
        Stream(shards, "train", batch_size=5, epochs=1) as stream,
    ):
        for batch in stream:
            np.testing.assert_array_equal(batch.images, images[batch.rows])
            np.testing.assert_array_equal(batch.labels, batch.rows % 3)
        assert shards.index("train").neuron_id.tolist() == [n // 2 for n in range(25)]
        for batch in evaluation_batches(shards, "val", 2):
            np.testing.assert_array_equal(batch.images, images[25 + batch.rows])
    path = tmp_path / "train_a.tar"
    content = bytearray(path.read_bytes())
    content[int(shards.index("train").offset[3])] ^= 1
    path.write_bytes(content)
    faults = verify(str(tmp_path))
    assert "train_a.tar: some/where-3: checksum differs from the index" in faults


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "stack.tif", "colour.png"])
def test_pictures_stream(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    sizes = {"stack.tif": (4, 16, 24), "colour.png": (16, 24, 3)}
    arrays = rng.integers(0, 256, (10, *sizes.get(kind, (16, 24))), dtype=np.uint8)
    with webdataset.TarWriter(str(tmp_path / "train-0.tar")) as writer:
        for number, array in enumerate(arrays):
            file = io.BytesIO()
            if kind.endswith("tif"):
                tifffile.imwrite(file, array, photometric="minisblack")
            else:
                Image.fromarray(array).save(file, "jpeg" if kind == "jpg" else "png")
            content = file.getvalue()
            writer.write({"__key__": f"k{number}", kind: content, "cls": number % 2})
    index_tars(str(tmp_path), ForeignSpec())
    assert verify(str(tmp_path)) == []
    expected = np.moveaxis(arrays, -1, 1) if kind == "colour.png" else arrays[:, None]
    with open_shards(str(tmp_path)) as shards:
        for batch in evaluation_batches(shards, "train", 4):
            error = np.abs(batch.images.astype(int) - expected[batch.rows]).mean()
            assert error < (40 if kind == "jpg" else 1e-9)
        offset = int(shards.index("train").offset[3])
    content = bytearray((tmp_path / "train-0.tar").read_bytes())
    content[offset + 30] ^= 255
    (tmp_path / "train-0.tar").write_bytes(content)
    with open_shards(str(tmp_path)) as shards, pytest.raises(ValueError, match="k3 has checksum"):
        shards.read_images("train", [3])


def test_what_cannot_stream_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"no .tar files there"):
        index_tars(str(tmp_path), ForeignSpec())
    write(tmp_path / "a.tar", images[:2].astype(np.float32), 0)
    with pytest.raises(ValueError, match="does not start with train, val, test"):
        index_tars(str(tmp_path), ForeignSpec())
    with pytest.raises(ValueError, match=r"where-0: float32 \(1, 4, 6, 5\) cannot be streamed"):
        index_tars(str(tmp_path), ForeignSpec(split="train"))
    write(tmp_path / "a.tar", images[:2], 0, **{"more.npy": images[0]})
    with pytest.raises(ValueError, match=r"where-0 has 2 images"):
        index_tars(str(tmp_path), ForeignSpec(split="train"))
    write(tmp_path / "a.tar", images[:2], 0)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"a.tar: byte 700: the tar ends there, without"):
        index_tars(str(tmp_path), ForeignSpec(split="train"))
    write(tmp_path / "a.tar", images[:2], 0, cls=b"dog")
    with pytest.raises(ValueError, match=r"where-0: .cls is .dog., expected one class"):
        index_tars(str(tmp_path), ForeignSpec(split="train"))
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "x", "png": b"no picture"})
    with pytest.raises(ValueError, match=r"x: .png: not a readable image"):
        index_tars(str(tmp_path), ForeignSpec(split="train"))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_streams(
    tmp_path: Path, images: np.ndarray, version: tuple[int, int]
) -> None:
    with webdataset.TarWriter(str(tmp_path / "train-0.tar")) as writer:
        for number, image in enumerate(images[:3]):
            file = io.BytesIO()
            np.lib.format.write_array(file, image, version=version)
            writer.write({"__key__": f"k{number}", "npy": file.getvalue(), "cls": number % 2})
    index_tars(str(tmp_path), ForeignSpec())
    with open_shards(str(tmp_path)) as shards:
        np.testing.assert_array_equal(shards.read_images("train", np.arange(3)), images[:3])


@pytest.mark.parametrize("shape", [(16, 12, 1), (16, 12, 3), (5, 16, 12, 4)])
def test_arrays_whose_channels_come_last_are_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    write(tmp_path / "train-0.tar", np.zeros((2, *shape), np.uint8), 0)
    with pytest.raises(ValueError, match=r"looks like \(y, x, channels\)"):
        index_tars(str(tmp_path), ForeignSpec())


def test_sections_taken_as_channels_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    write(tmp_path / "train-0.tar", np.zeros((2, 5, 16, 12), np.uint8), 0)
    index_tars(str(tmp_path), ForeignSpec(), say=said.append)
    assert any("of 5 channels; a stack of sections is (1, z, y, x)" in text for text in said)


@pytest.mark.parametrize("size", [None, (40.0, 8.0, 4.0)])
def test_a_voxel_size_that_was_not_given_is_unknown(
    tmp_path: Path,
    images: np.ndarray,
    capsys: pytest.CaptureFixture[str],
    size: tuple[float, float, float] | None,
) -> None:
    write(tmp_path / "train-0.tar", images[:2], 0)
    given = [] if size is None else ["--voxel-size-nm", *map(str, size)]
    assert run_command(main, ["index", str(tmp_path), *given]) == 0
    expected = "voxels of unknown size;" if size is None else "voxels 4 x 8 x 40 nm (x, y, z);"
    assert expected in capsys.readouterr().out
    with open_shards(str(tmp_path)) as shards:
        assert shards.manifest.image.voxel_size_nm == size
        assert shards.manifest.image.stretch == (1 if size is None else 10)


def test_only_our_own_unfinished_files_are_removed(tmp_path: Path, images: np.ndarray) -> None:
    write(tmp_path / "train-0.tar", images[:2], 0)
    ours = [".manifest.json.1234.0a1b2c3d.tmp", ".train-0.index.parquet.7.ffffffff.tmp"]
    others = [".notes.tmp", ".a.b.tmp", ".x.12.zzzzzzzz.tmp", ".draft.12.tmp"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("x")
    index_tars(str(tmp_path), ForeignSpec())
    left = {path.name for path in tmp_path.iterdir()}
    assert left.issuperset(others)
    assert left.isdisjoint(ours)
