"""Real tables and real pixels through plan, run and finish."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
import zarr

from ingest.dataset import read_table
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from ingest.volume.sample_boxes import centers_vx
from ingest.volume.scale import scale_from_info
from ingest.volume.volume_info import parse_info
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.real_data

CONFIGS = REPOSITORY / "ingest" / "configs"
CUBES = {"cube": [128, 128, 32]}
INFO = CONFIGS / "minnie65_info.json"


def plan_minnie65(
    shared_data: Path, folder: Path, views: dict[str, list[int]], overlap: str = "keep"
) -> tuple[dict[str, Any], pd.DataFrame, float]:
    """Plan the 30,173 real synapses against minnie65's info, with no volume to reach."""
    config = {
        "axes": "xyz",
        "volume": {"path": "https://example.invalid/minnie65/em", "info": str(INFO)},
        "synapses": {"path": str(shared_data / "minnie65_ei_synapses.parquet")},
        "labels": {"column": "ei"},
        "splits": {"overlap": overlap},
        "samples": {"center": "ctr", "views": {k: {"size": v} for k, v in views.items()}},
    }
    folder.mkdir(exist_ok=True)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(config))
    start = time.monotonic()
    document, _ = plan_dataset(load_job(path), folder / "out")
    return document, read_table(folder / "out" / "plan.parquet"), time.monotonic() - start


def test_minnie65_cubes_cost_what_was_counted(shared_data: Path, tmp_path: Path) -> None:
    document, samples, seconds = plan_minnie65(shared_data, tmp_path, CUBES)
    assert seconds < 60
    assert document.notes["training images that overlap a val or test image, kept"] == 595
    assert len(samples) == 30173
    reading = document.prediction.by_mip["0"]
    assert reading.touches == 351_952
    assert reading.distinct_chunks == 322_587
    # The grid begins at the voxel offset (neuroglancer's volume.md; CloudVolume does the same).
    assert reading.minishards == 24_110
    assert reading.shards == 3_407
    assert reading.chunk_reads >= reading.distinct_chunks
    assert reading.requests == reading.ranges + 24_110 + 3_407
    assert reading.raw_bytes == reading.chunk_reads * 128 * 128 * 16


def test_counts_of_a_grid_that_begins_at_zero(shared_data: Path) -> None:
    """24,300 minishards and 3,374 shards come out where the voxel offset is left out of account."""
    scale = scale_from_info(parse_info(INFO.read_bytes(), where="info"), 0, where="minnie65")
    table = pd.read_parquet(shared_data / "minnie65_ei_synapses.parquet")
    zyx = np.stack([table[f"ctr_pt_position_{axis}"].to_numpy() for axis in "zyx"], axis=1)
    start = zyx // [1, 2, 2] - [16, 64, 64]
    low, high = start // scale.grid.chunk, (start + np.array([31, 127, 127])) // scale.grid.chunk
    corners = [low + step for step in np.ndindex(*((high - low).max(axis=0) + 1))]
    chunks = np.unique(np.concatenate([c[(c <= high).all(axis=1)] for c in corners]), axis=0)
    assert len(chunks) == 322_587
    assert len(np.unique(chunks // 8, axis=0)) == 24_300
    assert len(np.unique(chunks // 32, axis=0)) == 3_374


@pytest.mark.parametrize(("section", "distinct"), [(0, 254_626), (-1, 254_983)])
def test_minnie65_patches_cost_what_was_counted(
    shared_data: Path, section: int, distinct: int
) -> None:
    """254,983 chunks lie under the section before the synapse's; 254,626 under its own."""
    scale = scale_from_info(parse_info(INFO.read_bytes(), where="info"), 0, where="minnie65")
    table = pd.read_parquet(shared_data / "minnie65_ei_synapses.parquet")
    sizes = {"x": 4, "y": 4, "z": 40}
    nm = {f"center_{axis}_nm": table[f"ctr_pt_position_{axis}"] * sizes[axis] for axis in "xyz"}
    centers = centers_vx(pd.DataFrame(nm), scale.voxel_size_nm) + np.array([section, 0, 0])
    codes = np.concatenate([codes for _, codes in scale.grid.touched(centers, (1, 256, 256))])
    assert len(np.unique(codes)) == distinct


def test_minnie65_splits_share_no_neuron(shared_data: Path, tmp_path: Path) -> None:
    document, samples, _ = plan_minnie65(shared_data, tmp_path, {"patch": [256, 256]})
    assert document.prediction.by_mip["0"].distinct_chunks == 254_626
    splits = samples.groupby("pre_root_id").split.nunique()
    assert len(splits) == 1992
    assert (splits == 1).all()
    assert document.neurons == {"train": 1394, "val": 299, "test": 299}
    for label, neurons in ((1, 1383), (0, 609)):
        found = samples[samples.label == label].groupby("split").pre_root_id.nunique()
        shares = (found / neurons).to_dict()
        assert shares == pytest.approx({"train": 0.7, "val": 0.15, "test": 0.15}, abs=0.003)
    guarded, kept, _ = plan_minnie65(shared_data, tmp_path / "guarded", CUBES, "drop")
    assert guarded.num_rejects == 595
    assert len(kept) == 30173 - 595
    share = samples.split.value_counts(normalize=True)
    assert share.to_dict() == pytest.approx({"train": 0.7, "val": 0.15, "test": 0.15}, abs=0.06)


def test_vnc_points_become_a_data_set(shared_data: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((CONFIGS / "vnc_points.yaml").read_text())
    config["volume"]["path"] = str(shared_data / "vnc_stack1_raw.tif")
    config["synapses"]["path"] = str(shared_data / "vnc_stack1_points.csv")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    plan_dataset(load_job(tmp_path / "job.yaml"), out)
    run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    dataset = finish_dataset(out)
    assert dataset.num_samples == 114
    assert dataset.counts == {
        "train": {"background": 43, "synapse": 21},
        "val": {"background": 24, "synapse": 6},
        "test": {"background": 12, "synapse": 8},
    }
    points = pd.read_csv(shared_data / "vnc_stack1_points.csv").set_index("id")
    stack = tifffile.imread(shared_data / "vnc_stack1_raw.tif")
    samples = read_table(out / "samples.parquet")
    patches = zarr.open_group(out / "samples.zarr", mode="r")["patch"]
    for sample in samples.itertuples():
        point = points.loc[sample.synapse_id]
        y, x = point.y_vx - 48, point.x_vx - 48
        expected = stack[point.z_vx, y : y + 96, x : x + 96]
        np.testing.assert_array_equal(patches[sample.row][0], expected)
        assert (sample.split == "train") == (point.x_vx < 614.4)
    reasons = read_table(out / "rejects.parquet").reason.value_counts().to_dict()
    assert reasons == {"out_of_bounds": 33, "overlaps_held_out": 3}
