"""Every voxel of every sample equals the formula."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from ingest.dataset import Layout, read_table
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack
from shards.stream.shardset import open_shards

VOXEL_NM = np.array([40, 8, 8])
OFFSET_ZYX, SIZE_ZYX = np.array([48, 96, 160]), np.array([72, 176, 200])


def ingest(config: Path, out: Path) -> pd.DataFrame:
    """Plan and run a job; return the samples that were kept."""
    document, _ = plan_dataset(load_job(config), out)
    run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    blocks = [read_table(Layout(out).block(b)) for b in range(document.num_blocks)]
    records = pd.concat(blocks, ignore_index=True)
    return records[records.reason == ""]


def centers_zyx(synapses: pd.DataFrame, shift: int = 0) -> dict[int, np.ndarray]:
    """The voxel that each synapse's cleft lies in."""
    return {
        row.id: shift
        + np.array([row.ctr_pt_position_z, row.ctr_pt_position_y // 2, row.ctr_pt_position_x // 2])
        for row in synapses.itertuples()
    }


def check_voxels(
    out: Path, samples: pd.DataFrame, centers: dict[int, np.ndarray], box_voxels: Any
) -> None:
    group = zarr.open_group(out / "samples.zarr", mode="r")
    assert group.attrs["synshards_schema_version"] == 1
    for name, array in group.arrays():
        size = np.array([1, *array.shape[2:]] if name == "patch" else array.shape[2:])
        for sample in samples.itertuples():
            image = np.asarray(array[sample.row]).reshape(size)
            start = centers[sample.synapse_id] - size // 2
            np.testing.assert_array_equal(image, box_voxels(start, size))


@pytest.mark.parametrize("kind", ["sharded", "plain", "file", "folder"])
@pytest.mark.parametrize(
    ("patch", "cube"), [((24, 24), (8, 16, 16)), ((23, 17), (5, 13, 21)), ((2, 3), (1, 2, 3))]
)
def test_every_voxel_is_the_formula(
    *,
    make_job: Any,
    box_voxels: Any,
    tmp_path: Path,
    kind: str,
    patch: tuple[int, int],
    cube: tuple[int, int, int],
):
    job = make_job(kind, views={"patch": {"size": [*patch[::-1]]}, "cube": {"size": [*cube[::-1]]}})
    samples = ingest(job.write(), tmp_path / "out")
    assert len(samples) == 64
    check_voxels(tmp_path / "out", samples, centers_zyx(job.synapses), box_voxels)


@pytest.mark.parametrize("view", ["patch", "cube"])
@pytest.mark.parametrize(("patch", "cube"), [((24, 24), (8, 16, 16)), ((23, 17), (5, 13, 21))])
def test_every_voxel_of_the_shards_is_the_formula(
    *,
    make_job: Any,
    box_voxels: Any,
    tmp_path: Path,
    view: Any,
    patch: tuple[int, int],
    cube: tuple[int, int, int],
):
    job = make_job(
        "sharded", views={"patch": {"size": [*patch[::-1]]}, "cube": {"size": [*cube[::-1]]}}
    )
    kept = ingest(job.write(), tmp_path / "out")
    finish_dataset(tmp_path / "out")
    pack(tmp_path / "out", view, str(tmp_path / "shards"), PackOptions(samples_per_shard=9))
    centers, seen = centers_zyx(job.synapses), 0
    with open_shards(str(tmp_path / "shards")) as shards:
        for split in shards.manifest.splits:
            index = shards.index(split)
            rows = np.arange(len(index))
            ids = index.table["synapse_id"].to_pylist()
            for synapse, image in zip(ids, shards.read_images(split, rows), strict=True):
                size = np.array([1, *image.shape[1:]] if view == "patch" else image.shape[1:])
                expected = box_voxels(centers[synapse] - size // 2, size)
                np.testing.assert_array_equal(image.reshape(size), expected)
                seen += 1
    assert seen == len(kept) == 64


@pytest.mark.parametrize(("center", "shift"), [("pre", 2), ("ctr", 0), ("post", -2)])
def test_centre_is_the_chosen_point(
    make_job: Any, box_voxels: Any, tmp_path: Path, center: str, shift: int
):
    job = make_job(center=center)
    samples = ingest(job.write(), tmp_path / "out")
    centers = centers_zyx(job.synapses, shift)
    check_voxels(tmp_path / "out", samples, centers, box_voxels)
    one = samples.iloc[0]
    found = np.array([one.center_z_nm, one.center_y_nm, one.center_x_nm]) // VOXEL_NM
    assert (found == centers[one.synapse_id]).all()


def test_edges_are_kept_to_the_voxel(make_job: Any, box_voxels: Any, tmp_path: Path):
    """A box that ends at the volume's end is kept; one voxel further along any axis is not."""
    job = make_job(views={"patch": {"size": [24, 23]}, "cube": {"size": [16, 15, 8]}})
    half = {"z": (4, 4), "y": (11, 12), "x": (12, 12)}  # before, from the centre on
    table = job.synapses.set_index("id")
    expected = {}
    for number, axis in enumerate("zyx"):
        first = OFFSET_ZYX[number] + half[axis][0]
        last = OFFSET_ZYX[number] + SIZE_ZYX[number] - half[axis][1]
        for step, (place, kept) in enumerate(
            [(first, True), (first - 1, False), (last, True), (last + 1, False)]
        ):
            synapse = 1000 + 4 * number + step
            table.loc[synapse, f"ctr_pt_position_{axis}"] = place * (1 if axis == "z" else 2)
            expected[synapse] = kept
    job.synapses = table.reset_index()
    job.config["qc"] = {"max_reject_fraction": 0.5}
    samples = ingest(job.write(), tmp_path / "out")
    assert {i: i in set(samples.synapse_id) for i in expected} == expected
    rejects = read_table(Layout(tmp_path / "out").plan_rejects)
    assert set(rejects.synapse_id) == {i for i, kept in expected.items() if not kept}
    assert set(rejects.reason) == {"out_of_bounds"}
    check_voxels(tmp_path / "out", samples, centers_zyx(job.synapses), box_voxels)


def test_odd_positions_fall_into_the_voxel_that_holds_them(
    make_job: Any, box_voxels: Any, tmp_path: Path
):
    job = make_job()
    job.synapses["ctr_pt_position_x"] += 1  # 4 nm: still in the same voxel of 8 nm
    samples = ingest(job.write(), tmp_path / "out")
    check_voxels(tmp_path / "out", samples, centers_zyx(job.synapses), box_voxels)
