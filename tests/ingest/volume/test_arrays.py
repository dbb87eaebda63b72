"""Volumes stored as arrays: every voxel where its own metadata says, as every format stores it."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import zarr

from ingest.job.image_config import VolumeConfig
from ingest.volume.geometry import Box
from ingest.volume.open import load_scales, open_volume, reference_reader, volume_identity
from ingest.volume.scale import Layer
from tests.ingest.volume.array_files import (
    CHUNK,
    N5_CODECS,
    NAMES,
    OFFSET_VX,
    SIZE_NM,
    WRITERS,
    scales_of,
    write_n5_array,
    write_ome_05,
)
from tests.servers.files import FileServer

BoxVoxels = Callable[[Any, Any], np.ndarray]

SHAPE = (30, 50, 70)  # no multiple of a chunk or shard
SCALED = ("ome 0.4", "ome 0.5", "n5")
PLACED = ("ome 0.4", "ome 0.5", "zarr v2", "zarr v3", "hdf5")


@pytest.fixture(scope="module")
def image(box_voxels: BoxVoxels) -> np.ndarray:
    return box_voxels(OFFSET_VX, SHAPE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> dict[str, str]:
    """The paths of the formula in every format."""
    root = tmp_path_factory.mktemp("arrays")
    return {
        kind: write(root / NAMES.get(kind, f"{kind.replace(' ', '_')}.zarr"), image)
        for kind, write in WRITERS.items()
    }


def config_of(path: str, **options: Any) -> VolumeConfig:
    return VolumeConfig(path=path, **options)


def check(config: VolumeConfig, image: np.ndarray, mip: int = 0, layer: Layer = "image") -> None:
    """Whole, and in many boxes that share chunks, of which one is a voxel."""
    with closing(open_volume(config, mip, concurrency=4, layer=layer)) as volume:
        first = np.array(volume.scale.grid.bounds.start)
        assert volume.scale.grid.bounds.shape == image.shape
        rng = np.random.default_rng(1)
        corners = np.sort(rng.integers(0, np.array(image.shape) + 1, (30, 2, 3)), axis=1)
        corners[:, 0] = np.minimum(corners[:, 0], np.array(image.shape) - 1)
        corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 1)
        spans = [(np.zeros(3, int), np.array(image.shape)), *corners]
        boxes = [Box(tuple((a + first).tolist()), tuple((b + first).tolist())) for a, b in spans]
        for (low, high), voxels in zip(spans, volume.read_many(boxes), strict=True):
            assert voxels is not None
            inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            np.testing.assert_array_equal(voxels[0], image[inside])


@pytest.mark.parametrize("kind", WRITERS)
def test_every_voxel_is_where_the_metadata_says(
    written: dict[str, str], image: np.ndarray, kind: str
) -> None:
    config = config_of(written[kind])
    scales = load_scales(config, saved=False)
    images = scales_of(image) if kind in SCALED else [image]
    assert list(scales) == list(range(len(images)))
    for mip, expected in enumerate(images):
        size = np.multiply(SIZE_NM, [1, 2**mip, 2**mip])
        np.testing.assert_allclose(scales[mip].voxel_size_nm, size)
        start = np.array(OFFSET_VX if kind in PLACED else (0, 0, 0)) // [1, 2**mip, 2**mip]
        assert scales[mip].grid.bounds.start == tuple(start)
        assert scales[mip].grid.chunk == CHUNK
        check(config, expected, mip)


@pytest.mark.parametrize("kind", ["ome 0.4", "ome 0.5", "zarr v2", "zarr v3"])
def test_zarr_itself_reads_the_same(written: dict[str, str], kind: str) -> None:
    config = config_of(written[kind])
    with closing(open_volume(config, 0, concurrency=4)) as volume:
        start = volume.scale.grid.bounds.start
        box = Box(start, tuple(np.add(start, (11, 40, 33)).tolist()))
        np.testing.assert_array_equal(volume.read(box), reference_reader(config, 0)(box))


@pytest.mark.parametrize("fault_rate", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["ome 0.4", "ome 0.5", "zarr v3", "n5"])
def test_a_web_server_gives_the_same(
    written: dict[str, str], image: np.ndarray, kind: str, fault_rate: float
) -> None:
    path = Path(written[kind])
    with FileServer(folder=path.parent, fault_rate=fault_rate, seed=3) as server:
        config = config_of(f"{server.url}/{path.name}")
        check(config, image)
        if kind != "n5":
            box = Box(OFFSET_VX, tuple(np.add(OFFSET_VX, (2, 3, 4)).tolist()))
            if not fault_rate:
                reference = reference_reader(config, 0)(box)
                np.testing.assert_array_equal(reference[0], image[:2, :3, :4])


@pytest.mark.parametrize("codec", N5_CODECS)
@pytest.mark.parametrize("dtype", ["u1", "u8"])
def test_compressions_of_n5(tmp_path: Path, image: np.ndarray, codec: str, dtype: str) -> None:
    ids = image.astype(dtype) * np.dtype(dtype).type(1 if dtype == "u1" else 2**40 + 1)
    write_n5_array(tmp_path / "a", ids, codec, resolution=[8, 8, 40])
    layer: Layer = "image" if dtype == "u1" else "segmentation"
    check(config_of(str(tmp_path / "a")), ids, layer=layer)


COMPRESSORS = [
    None,
    *(numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.GZip(), numcodecs.Zlib()),
    *(numcodecs.LZ4(), numcodecs.BZ2(), numcodecs.LZMA()),
]


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda c: c.codec_id if c else "none")
@pytest.mark.parametrize("filters", [None, [numcodecs.Delta(dtype="<i4")]], ids=["", "delta"])
def test_codecs_of_zarr_v2(
    tmp_path: Path, image: np.ndarray, compressor: Any, filters: Any
) -> None:
    ids = image.astype("<i4") * 1000
    array = zarr.create_array(
        tmp_path / "a",
        data=ids,
        chunks=CHUNK,
        zarr_format=2,
        compressors=compressor,
        filters=filters,
        attributes={"resolution": SIZE_NM},
    )
    assert array.metadata.zarr_format == 2
    check(config_of(str(tmp_path / "a")), ids, layer="segmentation")


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not")
@pytest.mark.parametrize("name", ["LZ4", "Zlib", "BZ2", "LZMA"])
def test_codecs_of_numcodecs_in_zarr_v3(tmp_path: Path, image: np.ndarray, name: str) -> None:
    codecs = pytest.importorskip("zarr.codecs.numcodecs")
    zarr.create_array(
        tmp_path / "a",
        data=image,
        chunks=CHUNK,
        compressors=[getattr(codecs, name)()],
        attributes={"resolution": SIZE_NM},
    )
    check(config_of(str(tmp_path / "a")), image)


def test_chunks_that_are_not_stored_hold_the_fill_value(tmp_path: Path) -> None:
    """As zarr has it; quality control then judges the image as any other."""
    image = np.full((16, 32, 40), 7, "u1")
    image[:8, :16, :20] = np.arange(8, dtype="u1")[:, None, None] + 1
    for name, shards in (("files", None), ("shards", (16, 32, 40))):
        zarr.create_array(
            tmp_path / name,
            data=image,
            chunks=CHUNK,
            shards=shards,
            fill_value=7,
            attributes={"resolution": SIZE_NM},
        )
        check(config_of(str(tmp_path / name)), image)
    stored = [path for path in (tmp_path / "files" / "c").rglob("*") if path.is_file()]
    assert len(stored) == 1
    shutil.rmtree(tmp_path / "shards" / "c")
    check(config_of(str(tmp_path / "shards")), np.full_like(image, 7))


def test_integers_through_a_window(tmp_path: Path, image: np.ndarray) -> None:
    deep = image.astype("u2") * 100 + 7
    write_ome_05(tmp_path / "a.zarr", deep)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = deep.astype(">i4") - 5000
        file["raw"].attrs["element_size_um"] = np.array(SIZE_NM) / 1000
    check(config_of(str(tmp_path / "a.zarr"), intensity=(7, 25507)), image)
    check(config_of(str(tmp_path / "a.h5"), intensity=(7 - 5000, 25507 - 5000)), image)


def test_a_volume_is_known_by_its_metadata(tmp_path: Path, image: np.ndarray) -> None:
    path = write_ome_05(tmp_path / "a.zarr", image)
    before = volume_identity(config_of(path), saved=False)
    assert volume_identity(config_of(path, format="zarr"), saved=False) == before
    document = tmp_path / "a.zarr" / "zarr.json"
    document.write_text(document.read_text().replace("40.0", "41.0"))
    assert volume_identity(config_of(path), saved=False) != before


def test_offsets_of_plain_arrays_need_a_voxel_size(tmp_path: Path, image: np.ndarray) -> None:
    zarr.create_array(tmp_path / "a", data=image, attributes={"offset": [40, 8, 8]})
    with pytest.raises(ValueError, match="without a resolution"):
        load_scales(config_of(str(tmp_path / "a"), voxel_size_nm=SIZE_NM), saved=False)


@pytest.fixture
def unknown_size(tmp_path: Path, image: np.ndarray) -> str:
    """An OME-Zarr whose axes have no unit, as many writers leave them."""
    path = write_ome_05(tmp_path / "a.zarr", image)
    document = tmp_path / "a.zarr" / "zarr.json"
    value = json.loads(document.read_text())
    for axis in value["attributes"]["ome"]["multiscales"][0]["axes"]:
        del axis["unit"]
    document.write_text(json.dumps(value))
    return path


def test_voxel_size_that_the_job_states(unknown_size: str, image: np.ndarray) -> None:
    """It is the finest scale's; the others' follow by the factors that are stated."""
    with pytest.raises(ValueError, match=r"add `voxel_size_nm: \[x, y, z\]` under volume"):
        load_scales(config_of(unknown_size), saved=False)
    config = config_of(unknown_size, voxel_size_nm=(30.0, 4.0, 4.0))
    sizes = [scale.voxel_size_nm for scale in load_scales(config, saved=False).values()]
    assert sizes == [(30.0, 4.0, 4.0), (30.0, 8.0, 8.0)]
    check(config, image)
