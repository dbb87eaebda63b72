"""Arrays that are no volume, or a damaged one: one line each, with the place and the cure."""

import json
import re
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from ingest.job.image_config import VolumeConfig
from ingest.volume.arrays.chunk_bytes import step_of, undo_all
from ingest.volume.detect_format import segmentation_of, with_format
from ingest.volume.geometry import Box
from ingest.volume.open import load_scale, open_volume
from ingest.volume.ranges.compression import DamagedChunkError
from tests.ingest.volume.array_files import (
    CHUNK,
    OFFSET_VX,
    SIZE_NM,
    multiscales,
    write_hdf5,
    write_n5,
    write_n5_array,
    write_ome_04,
    write_ome_05,
    write_zarr_3,
)

IMAGE = np.arange(1, 1 + 20 * 24 * 28, dtype="u4").astype("u1").reshape(20, 24, 28)
WHOLE = {"resolution": list(SIZE_NM)}


def read_whole(config: VolumeConfig) -> None:
    bounds = load_scale(config, 0, saved=False).grid.bounds
    with closing(open_volume(config, 0, concurrency=2)) as volume:
        volume.read(bounds)


def refusal(path: Any, **options: Any) -> str:
    """What is said, in one line, of a volume whose scale or whose voxels cannot be had."""
    config = VolumeConfig(path=str(path), **options)
    with pytest.raises(ValueError, match=re.escape(str(path)[-8:])) as caught:
        read_whole(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def array(path: Path, values: np.ndarray, **options: Any) -> Path:
    zarr.create_array(path, data=values, **({"attributes": WHOLE} | options))
    return path


# Arrays of other types and dimensions: the values, their dimensions' names, what is said.
OTHERS: dict[str, tuple[np.ndarray, tuple[str, ...] | None, str]] = {
    "float": (IMAGE.astype("f4"), None, "found float32, expected uint8, or uint16"),
    "ids": (IMAGE.astype("u8"), None, "found uint64, expected uint8, or uint16 with volume.int"),
    "deep": (
        IMAGE.astype("u2") * 100,
        None,
        r"state `intensity: \[low, high\]` under volume.*: \[\d{3}, 2\d{4}\] holds 99%",
    ),
    "color": (
        np.stack([IMAGE] * 3),
        ("c", "z", "y", "x"),
        "found dimensions c 3, z 20, y 24, x 28, expected c of length 1; store the EM image alone",
    ),
    "time": (np.stack([IMAGE] * 2), ("t", "z", "y", "x"), "expected t of length 1"),
    "flat": (IMAGE[0], None, "found dimensions y 24, x 28, expected z, y and x"),
    "named": (IMAGE, ("a", "y", "x"), "found dimensions a 20, y 24, x 28, expected z, y and x"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_arrays_that_are_no_image(tmp_path: Path, name: str) -> None:
    values, names, said = OTHERS[name]
    assert_said(refusal(array(tmp_path / "a", values, dimension_names=names)), tmp_path / "a", said)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = values
        for dimension, label in zip(file["raw"].dims, names or (), strict=False):
            dimension.label = label
        file["raw"].attrs["resolution"] = SIZE_NM
    assert_said(refusal(tmp_path / "a.h5/raw"), tmp_path / "a.h5", said)


def assert_said(text: str, where: Path, pattern: str) -> None:
    assert text.startswith(str(where)), text
    assert re.search(pattern, text), text


def test_no_voxel_size(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", data=IMAGE)
    said = refusal(tmp_path / "a")
    assert said.endswith("add `voxel_size_nm: [x, y, z]` under volume")
    path = array(tmp_path / "b", IMAGE)
    said = refusal(path, voxel_size_nm=(50.0, 8.0, 8.0))
    assert "says voxels of 8, 8, 40 nm (x, y, z), volume.voxel_size_nm makes them 8, 8, 50" in said
    assert load_scale(VolumeConfig(path=str(path), voxel_size_nm=SIZE_NM), 0, saved=False)


def test_damaged_metadata(tmp_path: Path) -> None:
    path = Path(write_ome_05(tmp_path / "em.zarr", IMAGE))
    document = path / "s0" / "zarr.json"
    whole = document.read_text()
    document.write_text(whole[:100])
    assert "s0/zarr.json: no JSON" in refusal(path)
    document.write_text("[]")
    assert "s0/zarr.json: expected a JSON object" in refusal(path)
    document.write_text(whole)
    edit(document, lambda d: d["codecs"][0]["configuration"]["codecs"].append({"name": "vendor.x"}))
    assert f"{path}/s0: zarr cannot use this metadata" in refusal(path)
    assert "vendor.x" in refusal(path)
    document.write_text(whole.replace('"zstd"', '"zstd2"'))
    assert "zstd2" in refusal(path)
    document.unlink()
    assert f"{path}/s0: no array there, but multiscales name it" in refusal(path)
    document.write_text(whole)
    edit(path / "zarr.json", lambda d: d["attributes"]["ome"]["multiscales"][0].pop("datasets"))
    assert "multiscales" in refusal(path)
    assert "datasets" in refusal(path)


def test_metadata_of_sizes_that_nothing_has(tmp_path: Path) -> None:
    path = array(tmp_path / "a", IMAGE, chunks=CHUNK)
    edit(path / "zarr.json", lambda d: d.update(shape=[2**40, 2**40, 2**40]))
    assert "voxels; correct its metadata" in refusal(path)
    path = array(tmp_path / "b", IMAGE, chunks=CHUNK)
    grid = {"name": "regular", "configuration": {"chunk_shape": [4096, 4096, 4096]}}
    edit(path / "zarr.json", lambda d: d.update(chunk_grid=grid))
    assert "raise SYNSHARDS_IMAGE_GB" in refusal(path)
    for size in ([0, 8, 8], [-1, 8, 8], [1e30, 8, 8]):
        path = array(tmp_path / "c", IMAGE, attributes={"resolution": size}, overwrite=True)
        assert "expected sizes above 0" in refusal(path)
    path = array(tmp_path / "d", IMAGE, attributes={"resolution": [8, 8]})
    assert "expected 3 numbers" in refusal(path)
    path = array(tmp_path / "e", IMAGE, attributes={"resolution": "8 nm"})
    assert "resolution" in refusal(path)


def damaged(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("cut", [0, 1, 20, 0.5])
@pytest.mark.parametrize("kind", ["zarr v2", "zarr v3", "sharded", "n5"])
def test_chunks_that_are_cut_short(tmp_path: Path, kind: str, cut: float) -> None:
    if kind == "n5":
        write_n5_array(tmp_path / "a", IMAGE, "gzip", resolution=[8, 8, 40])
        file = tmp_path / "a" / "0" / "0" / "0"
    else:
        options: dict[str, Any] = {"zarr_format": 2 if kind == "zarr v2" else 3, "chunks": CHUNK}
        options |= {"shards": (16, 16, 20)} if kind == "sharded" else {}
        array(tmp_path / "a", IMAGE, **options)
        file = tmp_path / "a" / ("0.0.0" if kind == "zarr v2" else "c/0/0/0")
    data = file.read_bytes()
    size = int(len(data) * cut) if cut < 1 else int(cut)
    file.write_bytes(data[:size])
    said = refusal(tmp_path / "a")
    assert str(file.relative_to(tmp_path)) in said
    assert "damaged" in said or "bytes came" in said, said


def test_a_flipped_bit_in_a_checked_chunk_or_index(tmp_path: Path) -> None:
    path = Path(write_zarr_3(tmp_path / "a.zarr", IMAGE))
    file = path / "c" / "0" / "0" / "0"
    data = bytearray(file.read_bytes())
    for place in (3, len(data) - 2):
        data[place] ^= 16
        file.write_bytes(data)
        assert "crc32c" in refusal(path)
        data[place] ^= 16


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    write_n5_array(tmp_path / "a", IMAGE, "zlib", resolution=[8, 8, 40])
    file = tmp_path / "a" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:16] + zlib.compress(bytes(1 << 28)))
    assert "it ends early, or never" in refusal(tmp_path / "a")


def test_hdf5_files(tmp_path: Path) -> None:
    path = Path(write_hdf5(tmp_path / "a.hdf", IMAGE))
    assert "no volumes/none in it; found the arrays" in refusal(path / "volumes" / "none")
    assert "volumes/raw (uint8 20x24x28)" in refusal(path / "volumes" / "none")
    with h5py.File(path, "a") as file:
        file["other"] = IMAGE
    said = refusal(path)
    assert "2 of its arrays could be gray-scale EM; name one at the end of the path, as" in said
    assert f"{path}/other" in said
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    assert "no array was found in it" in refusal(tmp_path / "empty.h5")
    data = path.read_bytes()
    damaged(tmp_path / "cut.h5", data[: len(data) // 2])
    assert "no HDF5 file that can be opened (" in refusal(tmp_path / "cut.h5")
    damaged(tmp_path / "text.h5", b"x,y,z\n" * 100)
    assert "no HDF5 file that can be opened (" in refusal(tmp_path / "text.h5")
    flipped = bytearray(data)
    with h5py.File(path) as file:
        chunk = file["volumes/raw"].id.get_chunk_info(0)
    flipped[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    damaged(tmp_path / "b.hdf", bytes(flipped))
    assert "b.hdf/volumes/raw: cannot be read (" in refusal(tmp_path / "b.hdf/volumes/raw")
    for url in ("https://example.invalid/a.h5", "s3://bucket/a.hdf/volumes/raw"):
        said = refusal(url)
        assert "HDF5 is read from files of this machine; copy it here, or convert it to OME" in said


def test_groups_that_do_not_say_which_array(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    for name in ("one", "two"):
        group.create_array(name, data=IMAGE, attributes=WHOLE)
    said = refusal(tmp_path / "a.zarr")
    assert "2 of its arrays could be gray-scale EM" in said
    assert "one (uint8 20x24x28), two (uint8 20x24x28)" in said
    assert load_scale(VolumeConfig(path=f"{tmp_path}/a.zarr/two"), 0, saved=False)
    group = zarr.create_group(tmp_path / "b.zarr", attributes={"bioformats2raw.layout": 3})
    assert refusal(tmp_path / "b.zarr").endswith(f"name one in the path: {tmp_path}/b.zarr/0")
    said = refusal(write_ome_05(tmp_path / "c.zarr", IMAGE) + "/s2")
    assert "no volume there, no such file or folder" in said
    with pytest.raises(ValueError, match="no mip 2; the volume has 2: s0, s1"):
        load_scale(VolumeConfig(path=f"{tmp_path}/c.zarr"), 2, saved=False)
    path = write_hdf5(tmp_path / "c.hdf", IMAGE)
    with pytest.raises(ValueError, match="no mip 1; the volume has one scale, 0"):
        load_scale(VolumeConfig(path=path), 1, saved=False)


def test_formats_are_recognized(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "em.tif", IMAGE, photometric="minisblack")
    (tmp_path / "em").mkdir()
    (tmp_path / "em" / "info").write_text("{}")
    (tmp_path / "bare.hdf").write_bytes(b"")
    paths = {
        write_ome_04(tmp_path / "a.zarr", IMAGE): "zarr",
        write_ome_05(tmp_path / "b", IMAGE): "zarr",
        write_n5(tmp_path / "c.n5", IMAGE): "n5",
        write_hdf5(tmp_path / "d.bin", IMAGE): "hdf5",
        f"{tmp_path}/d.bin/volumes/raw": "hdf5",
        f"{tmp_path}/bare.hdf": "hdf5",
        f"{tmp_path}/em": "precomputed",
        f"file://{tmp_path}/em": "precomputed",
        f"precomputed://file://{tmp_path}/em": "precomputed",
    }
    for path, kind in paths.items():
        assert with_format(VolumeConfig(path=path)).format == kind
        if kind != "precomputed":
            with pytest.raises(ValueError, match=f"write `format: {kind}` under volume, or remove"):
                with_format(VolumeConfig(path=path, format="precomputed"))
    with pytest.raises(ValueError, match=r"have no voxel size; add `voxel_size_nm: \[x, y, z\]`"):
        with_format(VolumeConfig(path=f"{tmp_path}/em.tif"))
    size = {"voxel_size_nm": SIZE_NM}
    assert with_format(VolumeConfig(path=f"{tmp_path}/em.tif", **size)).format == "tiff"
    with pytest.raises(ValueError, match="it is tiff, but the job says `format: precomputed`"):
        with_format(VolumeConfig(path=f"{tmp_path}/em.tif", format="precomputed"))
    with pytest.raises(ValueError, match="segmentation is read from precomputed, zarr, N5 and"):
        segmentation_of(VolumeConfig(path="x", segmentation=f"{tmp_path}/em.tif"))
    (tmp_path / "pngs").mkdir()
    Image.fromarray(IMAGE[0]).save(tmp_path / "pngs" / "1.png")
    with pytest.raises(ValueError, match="a folder of 1 images; write `format: tiff` under"):
        with_format(VolumeConfig(path=f"{tmp_path}/pngs"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no volume there that is known: precomputed \\(info\\)"):
        with_format(VolumeConfig(path=f"{tmp_path}/nothing"))


def test_old_and_incomplete_multiscales(tmp_path: Path) -> None:
    """0.3 names its axes in text, 0.1 not at all; a scale without a size takes the job's."""
    path = Path(write_ome_04(tmp_path / "a.zarr", IMAGE))
    whole = json.loads((path / ".zattrs").read_text())
    for axes in (["t", "c", "z", "y", "x"], None):
        image = {"datasets": [{"path": "0"}], **({} if axes is None else {"axes": axes})}
        (path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
        assert refusal(path).endswith("add `voxel_size_nm: [x, y, z]` under volume")
        config = VolumeConfig(path=str(path), voxel_size_nm=SIZE_NM)
        with closing(open_volume(config, 0, concurrency=2)) as volume:
            box = Box((1, 2, 3), (20, 20, 20))
            np.testing.assert_array_equal(volume.read(box)[0], IMAGE[1:20, 2:20, 3:20])
    whole["multiscales"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [1, 1, 2, 2, 2]},
        {"type": "translation", "translation": [0, 0, 0.08, 0, 0]},
    ]
    (path / ".zattrs").write_text(json.dumps(whole))
    scale = load_scale(VolumeConfig(path=str(path)), 0, saved=False)
    assert scale.voxel_size_nm == pytest.approx((80, 16, 16))
    assert scale.grid.bounds.start == (OFFSET_VX[0] + 1, *OFFSET_VX[1:])
    assert multiscales("zyx", ["0"])["multiscales"][0]["axes"][0]["unit"] == "nanometer"
    whole["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [1, 1]
    (path / ".zattrs").write_text(json.dumps(whole))
    assert "multiscales state (1.0, 1.0) for 5 axes" in refusal(path)


@pytest.mark.parametrize("codec", ["blosc", "lz4", "zstd", "gzip"])
@pytest.mark.parametrize("damage", ["cut short", "a byte put in", "a byte behind"])
def test_compressed_data_of_another_length_is_damaged(codec: str, damage: str) -> None:
    plain = np.random.default_rng(0).integers(0, 256, 4000, dtype="u1").tobytes()
    data = bytes(numcodecs.get_codec({"id": codec}).encode(plain))
    step = step_of({"id": codec})
    assert bytes(undo_all([step], data, 9000)) == plain
    changed = {
        "cut short": data[:-1],
        "a byte put in": data[:2000] + b"x" + data[2000:],
        "a byte behind": data + b"x",
    }[damage]
    with pytest.raises(DamagedChunkError):
        undo_all([step], changed, 9000)
