"""Cubes as TIFF files: the same voxels, and the voxel size in the metadata."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
import zarr

from ingest.dataset import Layout, read_table
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.plan.plan_record import read_plan
from ingest.run.blocks import Task, run_dataset
from ingest.run.export_tiff import export_tiff, write_tiff
from ingest.run.finish import finish_dataset
from ingest.volume.files.image_files import read_image
from shards.contract.sample_store import read_dataset
from shards.contract.schema import ImageSpec
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "ingest" / "configs"
CENTERS = ["center_x_nm", "center_y_nm", "center_z_nm"]


def test_exported_cubes_are_the_stored_ones_to_scale(make_job: Any) -> None:
    job = make_job(count=32, views={"cube": {"size": [12, 16, 8]}})
    out, tiffs = job.folder / "out", job.folder / "tiffs"
    plan_dataset(load_job(job.write()), out)
    run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    with pytest.raises(ValueError, match="no such finished data set"):
        export_tiff(out, tiffs, None)
    finish_dataset(out)
    assert export_tiff(out, tiffs, None) == 32
    cubes = zarr.open_group(out / "samples.zarr", mode="r")["cube"]
    samples = read_table(out / "samples.parquet").set_index("synapse_id", drop=False)
    for sample in samples.itertuples():
        with tifffile.TiffFile(tiffs / f"{sample.synapse_id}.tif") as file:
            np.testing.assert_array_equal(file.asarray(), cubes[sample.row][0])
            assert file.imagej_metadata is not None
            assert file.imagej_metadata["spacing"] == 0.04
            assert file.imagej_metadata["unit"] == "um"
            numerator, denominator = file.pages[0].tags["XResolution"].value
            assert numerator / denominator == pytest.approx(125)  # pixels a micrometre
    labels = pd.read_csv(tiffs / "labels.csv").set_index("synapse_id")
    expected = job.synapses.set_index("id").ei
    assert labels.label.to_dict() == expected[labels.index].to_dict()
    with pytest.raises(ValueError, match="no view patch; it has cube"):
        export_tiff(out, tiffs, "patch")


def made(job: Path, out: Path) -> pd.DataFrame:
    """Return the samples of a job's finished data set."""
    plan_dataset(load_job(job), out)
    run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    finish_dataset(out)
    return read_table(out / "samples.parquet").set_index("synapse_id", drop=False).sort_index()


def check_same(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Compare all that a TIFF folder carries."""
    same = ["key", "split", "label", "neuron_id", *CENTERS, "size"]
    pd.testing.assert_frame_equal(first[same], second[same])


@pytest.mark.parametrize(("view", "ids"), [("patch", "names"), ("cube", "numbers")])
def test_exported_images_come_back_as_they_were(make_job: Any, view: str, ids: str) -> None:
    """With splits of neurons, of which the overlapping training images were dropped."""
    job = make_job(views={"patch": {"size": [20, 16]}, "cube": {"size": [12, 16, 8]}})
    job.config["ids"] = ids
    if ids == "names":
        job.synapses["id"] = [f"left, {number}" for number in job.synapses.id]
        job.synapses["pre_pt_root_id"] = [f"axon {n}" for n in job.synapses.pre_pt_root_id % 100]
        job.synapses["post_pt_root_id"] = job.synapses.post_pt_root_id.astype(str)
    job.config["labels"]["class_names"] = ["inhibitory", "excitatory"]
    job.config["splits"] = {"by": "neuron", "seed": 1}
    out, tiffs, again = (job.folder / name for name in ("out", "tiffs", "again"))
    samples = made(job.write(), out)
    planned = read_plan(Layout(out))
    assert planned.funnel[-1].kept == len(samples) > 16
    assert sum("overlaps" in step.step and step.dropped for step in planned.funnel) > 0
    assert export_tiff(out, tiffs, view) == len(samples)
    others = made(tiffs / "job.yaml", again)
    check_same(samples, others)
    named = ["synapse_name", "neuron_name"] if ids == "names" else ["post_root_id"]
    pd.testing.assert_frame_equal(samples[named], others[named])
    check_images(out, samples, again, others, view)
    assert read_dataset(again).views[view] == read_dataset(out).views[view]


def check_images(
    out: Path, samples: pd.DataFrame, again: Path, others: pd.DataFrame, view: str
) -> None:
    first, second = (zarr.open_group(x / "samples.zarr", mode="r")[view] for x in (out, again))
    for old, new in zip(samples.row, others.row, strict=True):
        np.testing.assert_array_equal(second[new], first[old])


def test_the_ready_job_reads_exported_cubes(make_job: Any) -> None:
    job = make_job(views={"cube": {"size": [12, 16, 8]}})
    job.config["splits"]["overlap"] = "drop"
    out, tiffs, again = (job.folder / name for name in ("out", "tiffs", "again"))
    samples = made(job.write(), out)
    export_tiff(out, tiffs, None)
    config = yaml.safe_load((CONFIGS / "tiff_folder.yaml").read_text())
    config["volume"]["path"] = str(tiffs)
    config["synapses"]["path"] = str(tiffs / "labels.csv")
    config["samples"]["views"] = job.config["samples"]["views"]
    (job.folder / "again.yaml").write_text(yaml.safe_dump(config))
    others = made(job.folder / "again.yaml", again)
    check_same(samples, others)
    check_images(out, samples, again, others, "cube")


@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 9, 8), (1, 3, 9, 8), (2, 1, 9, 8), (3, 5, 9, 8)])
def test_any_image_is_read_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    channels = ("em", "pre", "post")[: shape[0]]
    spec = ImageSpec(shape=shape, dtype="uint8", channels=channels, voxel_size_nm=(40, 8, 8))
    write_tiff(tmp_path / "1.tif", image, spec)
    np.testing.assert_array_equal(read_image(tmp_path / "1.tif", shape), image)
    with tifffile.TiffFile(tmp_path / "1.tif") as file:
        assert file.imagej_metadata is not None
        assert file.imagej_metadata.get("channels", 1) == shape[0]
        labels = file.imagej_metadata.get("Labels", ["em"])
        assert labels[: shape[0]] == list(channels)
