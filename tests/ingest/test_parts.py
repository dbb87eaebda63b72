"""The pure parts: boxes, chunk ids, splits, labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cloudvolume.datasource.precomputed.common import compressed_morton_code
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification
from cloudvolume.lib import Vec
from hypothesis import given
from hypothesis import strategies as st

from ingest.job.job_config import LabelConfig, LabelTable
from ingest.plan.labels import Funnel, labeller
from ingest.plan.splits import (
    check_no_class_empty,
    counts_by_split,
    keep_per_group,
    keep_quota,
    split_by_group,
    split_by_position,
)
from ingest.volume.geometry import Box, box_at, box_starts, inside
from ingest.volume.ranges.chunk_grid import Grid
from ingest.volume.ranges.shard_index import Sharding
from shards.contract.morton import compressed_morton
from shards.contract.overlap import voxels_of

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
SIDES = st.tuples(*[st.integers(1, 24)] * 3)


@given(size=SIDES, center=st.tuples(*[st.integers(-50, 150)] * 3))
def test_inside_agrees_with_the_box_itself(size: Any, center: Any) -> None:
    bounds = Box((5, -7, 11), (60, 90, 100))
    centers = np.array([center])
    box = box_at(box_starts(centers, size)[0], size)
    assert bounds.contains(box) == inside(centers, size, bounds)[0]
    assert box.shape == size
    assert [c - s for c, s in zip(center, box.start, strict=True)] == [n // 2 for n in size]


@given(voxel=st.integers(0, 10**6), size=st.sampled_from([4.6, 7.16, 8.0, 0.1]))
def test_a_voxels_own_corner_lies_in_it(voxel: int, size: float) -> None:
    point = np.array([[voxel * size] * 3])
    assert voxels_of(point, (size, size, size)).tolist() == [[voxel] * 3]


@given(shape=st.tuples(*[st.integers(1, 2000)] * 3), seed=st.integers(0, 999))
def test_chunk_ids_are_cloudvolumes(shape: Any, seed: int) -> None:
    places = np.random.default_rng(seed).integers(0, shape, (20, 3))
    ours = compressed_morton(places, shape)
    theirs = compressed_morton_code([Vec(*place[::-1]) for place in places], Vec(*shape[::-1]))
    assert ours.tolist() == [int(code) for code in theirs]


@given(code=st.integers(0, 2**32 - 1))
def test_shards_are_cloudvolumes(code: int) -> None:
    ours = Sharding(preshift_bits=9, minishard_bits=6, shard_bits=17)
    theirs = ShardingSpecification(
        "neuroglancer_uint64_sharded_v1", 9, "identity", 6, 17
    ).compute_shard_location(code)
    codes = np.array([code], dtype=np.uint64)
    shard, minishard = divmod(int(ours.groups(codes)[0]), 1 << 6)
    assert shard == int(theirs.shard_number, 16)
    assert minishard == int(theirs.minishard_number)


@given(size=SIDES, seed=st.integers(0, 999))
def test_touched_chunks_are_those_that_hold_a_voxel(size: Any, seed: int) -> None:
    grid = Grid(bounds=Box((3, 5, 7), (103, 95, 127)), chunk=(16, 32, 8), sharding=None)
    low = np.array(size) // 2 + grid.bounds.start
    high = np.array(grid.bounds.stop) - np.array(size) + np.array(size) // 2 + 1
    centers = np.random.default_rng(seed).integers(low, high, (3, 3))
    found = {
        (int(row), int(code))
        for rows, codes in grid.touched(centers, size)
        for row, code in zip(rows, codes, strict=True)
    }
    expected = set()
    for row, start in enumerate(box_starts(centers, size)):
        voxels = np.stack(np.meshgrid(*[np.arange(s, s + n) for s, n in np.c_[start, size]]), -1)
        codes = grid.codes(np.unique(grid.chunk_of(voxels.reshape(-1, 3)), axis=0))
        expected |= {(row, int(code)) for code in codes}
    assert found == expected


@given(sizes=st.lists(st.integers(1, 30), min_size=6, max_size=60), seed=st.integers(0, 99))
def test_neurons_stay_whole_and_shares_are_kept(sizes: list[int], seed: int) -> None:
    neurons = np.repeat(np.arange(len(sizes)) * 7 + 1, sizes)
    labels = (neurons % 2).astype(np.int16)
    splits = split_by_group(neurons, labels, FRACTIONS, seed)
    frame = pd.DataFrame({"neuron": neurons, "split": splits, "label": labels})
    assert (frame.groupby("neuron").split.nunique() == 1).all()
    per_neuron = frame.drop_duplicates("neuron")
    for _, members in per_neuron.groupby("label"):
        counts = members.split.value_counts().reindex(range(3), fill_value=0)
        assert (counts > 0).all()
        assert np.abs(counts - len(members) * np.array([0.7, 0.15, 0.15])).max() < 2.5
    assert (split_by_group(neurons, labels, FRACTIONS, seed) == splits).all()


def test_another_seed_gives_other_splits() -> None:
    neurons = np.repeat(np.arange(100), 5)
    labels = (neurons % 2).astype(np.int16)
    one, two = (split_by_group(neurons, labels, FRACTIONS, seed) for seed in (42, 43))
    assert (one != two).any()


def test_a_seed_gives_the_same_splits_for_good() -> None:
    """Data sets that exist are planned again to the same splits."""
    neurons = np.repeat(np.arange(24), np.arange(24) % 5 + 1)
    splits = split_by_group(neurons, (neurons % 3 > 0).astype(np.int16), FRACTIONS, 42)
    of_neuron = splits[np.unique(neurons, return_index=True)[1]]
    assert "".join(map(str, of_neuron)) == "112000000010010000020200"


@given(groups=st.lists(st.integers(-5, 5), max_size=80), most=st.integers(1, 9))
def test_a_cap_keeps_what_it_may(groups: list[int], most: int) -> None:
    ids = np.array(groups, dtype=np.int64)
    keep = keep_per_group(ids, most, seed=1)
    for group in set(groups):
        assert keep[ids == group].sum() == min(most, groups.count(group))


def test_quotas_are_by_class_and_split() -> None:
    splits = np.repeat(np.array([0, 1, 2], dtype=np.int8), 100)
    labels = np.tile(np.array([0, 0, 0, 1], dtype=np.int16), 75)
    keep = keep_quota(splits, labels, {"train": 10, "test": 40}, seed=42)
    counts = counts_by_split(splits[keep], labels[keep], ("a", "b"))
    assert counts == {
        "train": {"a": 10, "b": 10},
        "val": {"a": 75, "b": 25},
        "test": {"a": 40, "b": 25},
    }
    with pytest.raises(ValueError, match="split val has no sample of class b"):
        check_no_class_empty({"val": {"a": 3, "b": 0}}, where="here")


def test_splits_by_position_meet_at_the_cuts() -> None:
    places = np.array([0.0, 59.9, 60.0, 79.9, 80.0, 99.9])
    assert split_by_position(places, 0, 100, (0.6, 0.8)).tolist() == [0, 0, 1, 1, 2, 2]


def label_tables(folder: Path) -> LabelConfig:
    """Nuclei 1 to 8 at roots 10 to 80; root 90 holds nuclei 9 and 10."""
    values = {1: "exc", 2: "inh", 3: "exc", 4: "exc", 5: "glia", 6: "inh", 9: "exc", 10: "exc"}
    big = pd.DataFrame({"target_id": values.keys(), "cell": values.values()})
    big["pt_root_id"] = np.where(big.target_id == 10, 90, big.target_id * 10)
    big.to_csv(folder / "big.csv", index=False)
    small = pd.DataFrame({"target_id": [2, 3, 7], "kind": ["i", "i", "e"]})
    small["pt_root_id"] = small.target_id * 10
    small.to_parquet(folder / "small.parquet")
    people = pd.DataFrame({"target_id": [4], "kind": ["i"], "pt_root_id": [40]})
    people.to_feather(folder / "people.feather", compression="uncompressed")
    kinds = {"e": "excitatory", "i": "inhibitory"}
    return LabelConfig(
        class_names=("inhibitory", "excitatory"),
        tables=(
            LabelTable(
                path=str(folder / "big.csv"),
                column="cell",
                classes={"exc": "excitatory", "inh": "inhibitory"},
            ),
            LabelTable(path=str(folder / "small.parquet"), column="kind", classes=kinds),
            LabelTable(
                path=str(folder / "people.feather"), column="kind", classes=kinds, manual=True
            ),
        ),
    )


def test_labels_come_from_the_surest_tables(tmp_path: Path) -> None:
    roots = [0, 10, 20, 30, 40, 50, 60, 70, 90, 99, 10]
    batch = pd.DataFrame({"pre_root_id": roots, "post_root_id": [1] * 10 + [10]})
    batch["synapse_id"] = np.arange(11)
    funnel = Funnel()
    found = labeller(label_tables(tmp_path), has_roots=True)(batch, funnel).set_index("synapse_id")
    assert found.label.to_dict() == {1: 1, 2: 0, 4: 0, 6: 0, 7: 1}
    assert found.label_tier.to_dict() == {
        1: "single",
        2: "agreeing",
        4: "manual",
        6: "single",
        7: "single",
    }
    assert found.neuron_id.to_dict() == {1: 1, 2: 2, 4: 4, 6: 6, 7: 7}
    assert found.label_source[2] == "big+small"
    dropped = {step: count for step, count in funnel.dropped.items() if count}
    assert dropped == {
        "no presynaptic root id": 1,
        "autapse": 1,
        "root with more than one nucleus": 1,
        "label tables in conflict": 1,
        "no label": 2,
    }
    assert funnel.steps()[-1].kept == 5
