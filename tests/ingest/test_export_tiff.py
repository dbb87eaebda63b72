"""Cubes as TIFF files: the same voxels, and the voxel size in the metadata."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
import zarr

from ingest.dataset import read_table
from ingest.export_tiff import export_tiff, write_tiff
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from ingest.volume.files.image_files import read_image
from shards.contract.schema import ImageSpec
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "ingest" / "configs"


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

    config = yaml.safe_load((CONFIGS / "tiff_folder.yaml").read_text())
    config["volume"]["path"] = str(tiffs)
    config["synapses"]["path"] = str(tiffs / "labels.csv")
    config["samples"]["views"] = job.config["samples"]["views"]
    config["splits"] = {"by": "column", "overlap": "keep"}
    (job.folder / "again.yaml").write_text(yaml.safe_dump(config))
    again = job.folder / "again"
    plan_dataset(load_job(job.folder / "again.yaml"), again)
    run_dataset(again, scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    others = finish_dataset(again) and read_table(again / "samples.parquet")
    assert len(others) == 32
    same = ["split", "label", "neuron_id", "center_x_nm", "center_y_nm", "center_z_nm", "size"]
    expected = samples.loc[others.synapse_id].reset_index(drop=True)
    pd.testing.assert_frame_equal(others[same], expected[same])
    read_back = zarr.open_group(again / "samples.zarr", mode="r")["cube"]
    for old, new in zip(expected.row, others.row, strict=True):
        np.testing.assert_array_equal(read_back[new], cubes[old])


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
