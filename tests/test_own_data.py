"""From raw files to a report by commands alone, each job as `ingest init` wrote it.

The voxels are a formula of x, y, z, so that a wrong axis, scale or offset shows in every pixel.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
import zarr
from cloudvolume import CloudVolume
from PIL import Image

from eval.__main__ import main as evaluate
from eval.inputs.predictions import read_predictions
from ingest.__main__ import main as ingest
from shards.__main__ import main as shards
from shards.cli.command import run_command
from shards.contract.sample_store import open_store
from trainer.__main__ import main as trainer

SIZE_XYZ = (448, 512, 40)
OFFSET_XYZ = (64, 32, 16)
VOXEL_NM = (8, 8, 40)
TRAIN = "--epochs 1 --batch-size 8 --crop 16 16 --width 2 --weights none --threads 1"
SPLITS = ("train", "val", "test")


def formula(z: Any, y: Any, x: Any) -> Any:
    return ((7 * np.asarray(x) + 13 * np.asarray(y) + 29 * np.asarray(z)) % 251 + 1).astype("u1")


def box(center_zyx: Any, size_zyx: Any) -> np.ndarray:
    """The voxels of a box around a voxel of the volume."""
    start = np.asarray(center_zyx) - np.asarray(size_zyx) // 2
    axes = [np.arange(s, s + n) for s, n in zip(start, size_zyx, strict=True)]
    return formula(*np.ix_(*axes))


@pytest.fixture(scope="module")
def stack_zyx() -> np.ndarray:
    axes = [np.arange(n) for n in SIZE_XYZ[::-1]]
    return formula(*np.ix_(*axes))


def points() -> pd.DataFrame:
    """Centers so far apart that no images share voxels: eight neurons of each class."""
    axes = (np.arange(32, SIZE_XYZ[0], 64), np.arange(32, SIZE_XYZ[1], 64), (10, 30))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    rows = pd.DataFrame(grid, columns=["x", "y", "z"])
    rows["neuron"] = [f"axon {n}" for n in np.arange(len(rows)) // 7]
    rows["kind"] = np.where(np.arange(len(rows)) // 7 % 2, "exc", "inh")
    return rows


def commands(folder: Path, view: str, init: list[str]) -> None:
    """Do the whole job, from `init` on."""
    job, data, run = folder / "job.yaml", folder / "data", folder / "run"
    steps: list[tuple[Any, list[Any]]] = [
        (ingest, ["init", *init, "--out", job]),
        (ingest, ["check", job, "--sheet", folder / "sheet.png"]),
        (ingest, ["plan", job, "--out", data]),
        (ingest, ["run", data, "--task-index", 0, "--num-tasks", 1]),
        (ingest, ["finish", data]),
        (shards, ["pack", data, "--view", view, "--out", folder / "shards"]),
        (
            trainer,
            ["resnet18_2d_small", "--data", folder / "shards", "--out", run, *TRAIN.split()],
        ),
        (trainer, ["predict", run, "--split", *SPLITS[1:]]),
        (evaluate, [run]),
    ]
    for main, words in steps:
        assert run_command(main, [*map(str, words)]) == 0, words


def report(folder: Path) -> pd.DataFrame:
    """Return the predictions, after a look at the report."""
    assert (folder / "run" / "report.html").stat().st_size > 10_000
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["runs"][0]["n_synapses"] > 0
    files = sorted((folder / "run" / "predictions").glob("*.parquet"))
    return pd.concat([read_predictions(path)[0] for path in files])


def patches(folder: Path, view: str = "patch") -> dict[str, np.ndarray]:
    """Return the stored images by the names that their ids have in the user's table."""
    store = open_store(folder / "data")
    samples = store.samples.to_pandas()
    names = samples.get("synapse_name", samples.synapse_id.astype(str))
    files = store.files(view)
    return {str(n): files.read([row])[0] for n, row in zip(names, samples.row, strict=True)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_tiff_stack_and_points(stack_zyx: np.ndarray, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "em.tif", stack_zyx, photometric="minisblack", metadata=None)
    table = points()
    table.rename_axis("id").to_csv(tmp_path / "points.csv")
    words = ["--volume", tmp_path / "em.tif", "--synapses", tmp_path / "points.csv"]
    commands(tmp_path, "patch", [*words, "--voxel-size-nm", *VOXEL_NM])
    images = patches(tmp_path)
    assert len(images) > 100
    for name, image in images.items():
        row = table.loc[int(name)]
        expected = box((row.z, row.y, row.x), (1, *image.shape[1:]))
        np.testing.assert_array_equal(image, expected)
    predicted = report(tmp_path).set_index("synapse_name")
    assert {*predicted.neuron_name} <= {*table.neuron}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_folder_of_pngs_and_a_csv_of_their_names(tmp_path: Path) -> None:
    table = points()
    names = [f"cell {row.neuron} no {number}.png" for number, row in table.iterrows()]
    (tmp_path / "pictures").mkdir()
    expected = {}
    for name, row in zip(names, table.itertuples(), strict=True):
        expected[name] = box((row.z, row.y, row.x), (1, 24, 32))
        Image.fromarray(expected[name][0]).save(tmp_path / "pictures" / name)
    pd.DataFrame({"filename": names, "label": table.kind}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    words = ["--volume", tmp_path / "pictures", "--synapses", tmp_path / "labels.csv"]
    commands(tmp_path, "patch", [*words, "--voxel-size-nm", *VOXEL_NM])
    images = patches(tmp_path)
    assert images.keys() == expected.keys()
    for name, image in images.items():
        np.testing.assert_array_equal(image, expected[name])
    predicted = report(tmp_path)
    assert {*predicted.synapse_name} < {*names}
    assert len(predicted) > 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cloudvolume_of_own_columns(stack_zyx: np.ndarray, tmp_path: Path) -> None:
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="image",
        data_type="uint8",
        encoding="raw",
        resolution=list(VOXEL_NM),
        voxel_offset=list(OFFSET_XYZ),
        volume_size=list(SIZE_XYZ),
        chunk_size=[64, 64, 16],
    )
    volume = CloudVolume(f"file://{tmp_path}/em", info=info, progress=False)
    volume.commit_info()
    volume[:] = stack_zyx.T[..., None]
    table = points()
    own = pd.DataFrame(
        {
            "synapse": 864691 + np.arange(len(table)),
            "pre_neuron": 10**17 + np.arange(len(table)) // 7,
            **{
                f"cleft_{axis}_nm": (table[axis] + OFFSET_XYZ[k]) * VOXEL_NM[k]
                for k, axis in enumerate("xyz")
            },
        }
    )
    own.to_parquet(tmp_path / "synapses.parquet")
    cells = own.assign(type=table.kind).drop_duplicates("pre_neuron")
    cells[["pre_neuron", "type"]].rename(columns={"pre_neuron": "cell"}).to_csv(
        tmp_path / "cells.csv", index=False
    )
    words = ["--volume", tmp_path / "em", "--synapses", tmp_path / "synapses.parquet"]
    commands(tmp_path, "patch", [*words, "--labels", tmp_path / "cells.csv"])
    for view in ("patch", "cube"):
        images = patches(tmp_path, view)
        assert len(images) > 20
        for name, image in images.items():
            row = table.loc[int(name) - 864691]
            size = image.shape[1:] if view == "cube" else (1, *image.shape[1:])
            expected = box((row.z, row.y, row.x), size)
            np.testing.assert_array_equal(image[0].reshape(size), expected)
    predicted = report(tmp_path)
    truth = dict(zip(own.synapse, table.kind == "exc", strict=True))
    assert len(predicted) > 20
    labels = zip(predicted.synapse_id, predicted.label, strict=True)
    assert all(truth[number] == label for number, label in labels)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_ome_zarr_and_points_in_micrometers(stack_zyx: np.ndarray, tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "em.zarr", zarr_format=3)
    datasets = []
    for level, name in enumerate(("0", "1")):
        scale = stack_zyx[:, :: 2**level, :: 2**level]
        array = group.create_array(
            name,
            shape=(1, *scale.shape),
            chunks=(1, 8, 64, 64),
            shards=(1, 16, 128, 128),
            dtype="u1",
        )
        array[:] = scale[None]
        size = np.array([0.04, 0.008 * 2**level, 0.008 * 2**level])
        shift = (
            np.array(OFFSET_XYZ[::-1]) * VOXEL_NM[::-1] / 1000 + (size - [0.04, 0.008, 0.008]) / 2
        )
        transforms = [
            {"type": "scale", "scale": [1.0, *size]},
            {"type": "translation", "translation": [0.0, *shift]},
        ]
        datasets.append({"path": name, "coordinateTransformations": transforms})
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    multiscales = [{"name": "em", "axes": axes, "datasets": datasets}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    table = points()
    own = table[["neuron", "kind"]].rename_axis("id")
    for axis, offset, size in zip("xyz", OFFSET_XYZ, VOXEL_NM, strict=True):
        own[f"center_{axis}"] = (table[axis] + offset + 0.5) * size / 1000
    own.to_csv(tmp_path / "points.csv")
    words = ["--volume", tmp_path / "em.zarr", "--synapses", tmp_path / "points.csv"]
    commands(tmp_path, "patch", [*map(str, words)])
    for view in ("patch", "cube"):
        images = patches(tmp_path, view)
        assert len(images) > 20
        for name, image in images.items():
            row = table.loc[int(name)]
            size = image.shape[1:] if view == "cube" else (1, *image.shape[1:])
            expected = box((row.z, row.y, row.x), size)
            np.testing.assert_array_equal(image[0].reshape(size), expected)
    assert len(report(tmp_path)) > 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_hdf5_file_of_16_bits_and_points(stack_zyx: np.ndarray, tmp_path: Path) -> None:
    """CREMI's layout; `init` proposes the window that makes 8 bits of it."""
    deep = stack_zyx.astype("u2") * 100
    with h5py.File(tmp_path / "sample.hdf", "w") as file:
        raw = file.create_dataset("volumes/raw", data=deep, chunks=(8, 64, 64), compression="gzip")
        raw.attrs["resolution"] = [40.0, 8.0, 8.0]
        raw.attrs["offset"] = np.array(OFFSET_XYZ[::-1]) * VOXEL_NM[::-1]
        ids = file.create_dataset("volumes/labels/neuron_ids", data=np.ones((4, 4, 4), "u8"))
        ids.attrs["resolution"] = [40.0, 8.0, 8.0]
    table = points()
    own = table.rename_axis("id").copy()
    for axis, offset in zip("xyz", OFFSET_XYZ, strict=True):
        own[axis] += offset
    own.to_csv(tmp_path / "points.csv")
    words = ["--volume", tmp_path / "sample.hdf", "--synapses", tmp_path / "points.csv"]
    commands(tmp_path, "patch", [*map(str, words)])
    low, high = yaml.safe_load((tmp_path / "job.yaml").read_text())["volume"]["intensity"]
    assert 0 < low < 1000
    assert 24000 < high < 26000
    images = patches(tmp_path)
    assert len(images) > 20
    for name, image in images.items():
        row = table.loc[int(name)]
        expected = box((row.z, row.y, row.x), (1, *image.shape[1:])).astype(float) * 100
        gray = ((expected - low) / (high - low)).clip(0, 1) * 255
        assert np.abs(image - gray).max() <= 0.5
    assert len(report(tmp_path)) > 20
