"""What a plan leaves out so that nothing of val and test is in train."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.dataset import Layout, read_table
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.plan.plan_record import Plan
from ingest.plan.select import VAL_OVERLAPS_TEST
from ingest.volume.geometry import box_at, box_starts
from shards.contract.overlap import overlaps

VOXEL_NM = np.array([40, 8, 8])


@given(size=st.tuples(*[st.integers(1, 9)] * 3), seed=st.integers(0, 999))
def test_overlaps_are_shared_voxels(size: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours, others = rng.integers(0, 20, (12, 3)), rng.integers(0, 20, (4, 3))

    def voxels(center: np.ndarray) -> set[tuple[int, ...]]:
        box = box_at(box_starts(center[None], size)[0], size)
        return {tuple(np.add(box.start, step)) for step in np.ndindex(*size)}

    held = set().union(*(voxels(center) for center in others))
    expected = [bool(voxels(center) & held) for center in ours]
    assert overlaps(ours, others, size).tolist() == expected


def planned(job: Any, name: str) -> tuple[Plan, pd.DataFrame, pd.DataFrame]:
    out = job.folder / name
    document, _ = plan_dataset(load_job(job.write()), out)
    return document, read_table(out / "plan.parquet"), read_table(Layout(out).plan_rejects)


def test_training_images_that_overlap_are_dropped_and_counted(make_job: Any) -> None:
    job = make_job(views={"cube": {"size": [12, 12, 4]}})
    kept_all, everything, none = planned(job, "keep")
    job.config["splits"]["overlap"] = "drop"
    document, samples, rejects = planned(job, "drop")
    count = kept_all.notes["training images that overlap a val or test image, kept"]
    steps = {row.step: row.dropped for row in document.funnel}
    assert steps["training image overlaps a val or test image"] == count == len(rejects) > 0
    assert none.empty
    assert len(everything) == len(samples) + len(rejects)
    assert set(rejects.reason) == {"overlaps_held_out"}
    columns = ["center_z_nm", "center_y_nm", "center_x_nm"]
    centers = (samples[columns].to_numpy() // VOXEL_NM).astype(int)
    train = (samples.split == "train").to_numpy()
    assert not overlaps(centers[train], centers[~train], (4, 12, 12)).any()
    held = everything[everything.split != "train"]
    assert set(held.synapse_id) == set(samples.synapse_id[~train])


def test_val_images_that_overlap_test_images_are_kept_and_counted(make_job: Any) -> None:
    plan, samples, _ = planned(make_job(count=150, views={"cube": {"size": [16, 16, 8]}}), "out")
    columns = ["center_z_nm", "center_y_nm", "center_x_nm"]
    centers = (samples[columns].to_numpy() // VOXEL_NM).astype(int)
    val, test = (centers[(samples.split == split).to_numpy()] for split in ("val", "test"))
    assert plan.notes[VAL_OVERLAPS_TEST] == overlaps(val, test, (8, 16, 16)).sum() > 0


def test_postsynaptic_neurons_in_one_split_only(make_job: Any) -> None:
    job = make_job()
    job.synapses["post_pt_root_id"] = 5_000 + job.synapses.index % 60
    job.config["splits"] |= {"disjoint_post": True}
    document, samples, rejects = planned(job, "out")
    assert (samples.groupby("post_root_id").split.nunique() == 1).all()
    assert (samples.groupby("pre_root_id").split.nunique() == 1).all()
    assert set(rejects.reason) == {"shared_post_neuron"}
    assert document.num_samples + len(rejects) == 64


def test_splits_by_blocks_of_space(make_job: Any) -> None:
    job = make_job()
    job.config["splits"] |= {"by": "block", "block_um": 0.4}
    _, samples, _ = planned(job, "out")
    columns = ["center_z_nm", "center_y_nm", "center_x_nm"]
    cells = (samples[columns] // 400).astype(int).astype(str).agg("-".join, axis=1)
    assert (samples.groupby(cells).split.nunique() == 1).all()
    assert samples.split.nunique() == 3


def test_caps_and_quotas(make_job: Any) -> None:
    job = make_job()
    job.config["splits"] |= {"max_per_neuron": 3, "max_per_class": {"train": 9, "val": 4}}
    document, samples, _ = planned(job, "out")
    assert samples.groupby("neuron_id").size().max() == 3
    assert document.counts["train"] == {"inhibitory": 9, "excitatory": 9}
    assert document.counts["val"] == {"inhibitory": 4, "excitatory": 4}
    assert document.counts["test"]["excitatory"] == 6
    assert document.funnel[-1].kept == len(samples) == document.num_samples


def test_a_block_of_no_size_is_refused(make_job: Any) -> None:
    job = make_job()
    job.config["splits"]["block_um"] = 0
    with pytest.raises(ValueError, match="block_um must be above 0"):
        load_job(job.write())
