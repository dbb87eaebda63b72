"""Cubes as TIFF files: the same voxels, and the voxel size in the metadata."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from ingest.config import load_job
from ingest.export import export_tiff
from ingest.finish import finish_dataset
from ingest.layout import read_table
from ingest.plan import plan_dataset
from ingest.run import Task, run_dataset


def test_exported_cubes_are_the_stored_ones_to_scale(make_job: Any) -> None:
    job = make_job(count=32, views={"cube": {"size": [8, 16, 12]}})
    out, tiffs = job.folder / "out", job.folder / "tiffs"
    plan_dataset(load_job(job.write()), out)
    run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    with pytest.raises(ValueError, match="no such finished data set"):
        export_tiff(out, tiffs, None)
    finish_dataset(out)
    assert export_tiff(out, tiffs, None) == 32
    cubes = zarr.open_group(out / "samples.zarr", mode="r")["cube"]
    samples = read_table(out / "samples.parquet")
    for sample in samples.itertuples():
        with tifffile.TiffFile(tiffs / f"{sample.key}.tif") as file:
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
