"""Folds of a cross-validation: each neuron tested once, no voxel shared, the same images."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract.schema import SPLITS, Dataset, ImageSpec
from shards.pack.assign import PackOptions
from shards.pack.copy import copy
from shards.pack.deal import deal_groups
from shards.pack.folds import OVERLAP, divide_in_folds
from shards.pack.verify import verify
from shards.pack.write_shards import pack
from shards.stream.shardset import open_shards
from shards.stream.stream import Stream

IMAGE = ImageSpec(shape=(1, 4, 8, 8), dtype="uint8", channels=("em",), voxel_size_nm=(40, 8, 8))


def dataset(**splits: object) -> Dataset:
    return Dataset(
        schema_version=1,
        class_names=("inhibitory", "excitatory"),
        views={"cube": IMAGE},
        num_samples=0,
        num_rejects=0,
        counts={},
        config={"splits": splits},
        sources=[],
        rules={},
        code_version="0",
    )


def table(x_vx: np.ndarray, neurons: np.ndarray, labels: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "neuron_id": neurons + 1,
            "label": labels.astype(np.int16),
            "split": [""] * len(labels),
            "center_x_nm": x_vx * 8.0,
            "center_y_nm": np.zeros(len(labels)),
            "center_z_nm": np.zeros(len(labels)),
        }
    )


@given(
    counts=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1)), min_size=1, max_size=60),
    num_folds=st.integers(3, 7),
    seed=st.integers(0, 3),
)
def test_neurons_are_dealt_whole_and_evenly(
    counts: list[tuple[int, int]], num_folds: int, seed: int
) -> None:
    neurons = np.repeat(np.arange(len(counts)), [size for size, _ in counts])
    labels = np.repeat(np.array([label for _, label in counts], np.int16), [s for s, _ in counts])
    folds = deal_groups(neurons, labels, np.full(num_folds, 1 / num_folds), seed)
    of_neuron = [set(folds[neurons == neuron]) for neuron in range(len(counts))]
    assert all(len(found) == 1 for found in of_neuron)
    dealt = np.array([found.pop() for found in of_neuron])
    assert np.ptp(np.bincount(dealt, minlength=num_folds)) <= 1
    for label in (0, 1):
        mine = dealt[[of == label for _, of in counts]]
        assert np.ptp(np.bincount(mine, minlength=num_folds)) <= 2


def test_training_images_that_overlap_held_out_ones_are_left_out() -> None:
    rng = np.random.default_rng(0)
    neurons = np.arange(60) // 2
    samples = table(rng.integers(0, 400, 60), neurons, neurons % 2)
    tested = []
    parts, divisions = divide_in_folds(samples, 3, 42, dataset())
    for fold, division in enumerate(divisions):
        assert not division.listed.all()
        x, split = samples["center_x_nm"].to_numpy() / 8, division.splits
        x, split = x[division.listed], split[division.listed]
        apart = np.abs(x[split == "train"][:, None] - x[split != "train"])
        assert apart.min() >= 8
        assert set(split) == set(SPLITS)
        mine = np.array(parts["split"].to_pylist()) == f"fold{fold}"
        assert ((division.splits == "test") == mine).all()
        tested += samples.filter(pa.array(mine))["neuron_id"].to_pylist()
    assert sorted(tested) == (neurons + 1).tolist()


def test_folds_of_a_store_hold_the_same_images(store: Path, tmp_path: Path) -> None:
    tested: dict[str, bytes] = {}
    url, second = str(tmp_path / "cv"), str(tmp_path / "copy")
    pack(store, "patch", url, PackOptions(folds=4, samples_per_shard=16))
    files = {path.name: path.read_bytes() for path in Path(url).iterdir()}
    (Path(url) / "fold1-000000.fold2.index.parquet").unlink()  # as of an interrupted run
    pack(store, "patch", url, PackOptions(folds=4, samples_per_shard=16), workers=1)
    assert {path.name: path.read_bytes() for path in Path(url).iterdir()} == files
    for fold in range(4):
        assert verify(url, fold=fold) == []
        copy(url, second, fold=fold)
        with open_shards(second, fold=fold) as shards:
            manifest = shards.manifest
            assert (manifest.pack.fold, manifest.pack.num_folds) == (fold, 4)
            total = sum(split.num_samples for split in manifest.splits.values())
            total += manifest.pack.left_out[OVERLAP]
            index = shards.index("test")
            images = shards.read_images("test", np.arange(len(index)))
            keys = index.column("key")
            tested |= {key: image.tobytes() for key, image in zip(keys, images, strict=True)}
    whole = pack(store, "patch", str(tmp_path / "whole"), PackOptions())
    assert len(tested) == total == sum(split.num_samples for split in whole.splits.values())
    with open_shards(str(tmp_path / "whole")) as shards:
        for split in whole.splits:
            keys = shards.index(split).column("key")
            images = shards.read_images(split, np.arange(len(keys)))
            assert all(tested[key] == im.tobytes() for key, im in zip(keys, images, strict=True))


def test_tars_whose_images_all_overlap_are_listed_as_empty(store: Path, tmp_path: Path) -> None:
    """With one image per tar; what is left out of one fold's training is tested in another."""
    url, left_out = str(tmp_path / "cv"), 0
    pack(store, "patch", url, PackOptions(folds=3, samples_per_shard=1))
    for fold in range(3):
        assert verify(url, fold=fold) == []
        with open_shards(url, fold=fold) as shards:
            index, split = shards.index("train"), shards.manifest.splits["train"]
            left_out += sum(shard.num_samples == 0 for shard in split.shards)
            assert len(shards.read_images("train", np.arange(len(index)))) == split.num_samples
            stream = Stream(shards, "train", batch_size=4)
            with stream:
                seen = [row for _ in range(stream.steps_per_epoch) for row in next(stream).rows]
            assert len(set(seen)) == len(seen) > 0
    assert left_out > 0


def test_which_fold(store: Path, tmp_path: Path) -> None:
    url, plain = str(tmp_path / "cv"), str(tmp_path / "plain")
    pack(store, "patch", url, PackOptions(folds=3))
    pack(store, "patch", plain, PackOptions())
    for place, fold, message in (
        (url, None, "choose one with --fold 0"),
        (url, 3, "holds no fold 3; its 3 folds begin at 0"),
        (url, -1, "must be 0 or more"),
        (plain, 0, "holds no folds; leave --fold out"),
    ):
        with pytest.raises(ValueError, match=message):
            open_shards(place, fold=fold)
    with pytest.raises(ValueError, match="belongs to another packing"):
        pack(store, "patch", url, PackOptions(folds=4))
    tar = Path(url) / "fold1-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"made up", b"mode up", 1))
    assert "SHA-256 differs" in " ".join(verify(url, fold=0))


def test_folds_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="must be 3 or more, got 2"):
        PackOptions(folds=2)


def test_samples_of_unknown_place_stay() -> None:
    samples = table(np.zeros(12), np.arange(12), np.arange(12) % 2)
    places = np.where(np.arange(12) < 11, np.nan, 0.0)
    samples = samples.set_column(3, "center_x_nm", pa.array(places))
    assert all(division.listed.all() for division in divide_in_folds(samples, 3, 42, dataset())[1])


def test_data_that_cannot_be_dealt() -> None:
    unknown = table(np.arange(4), np.array([-1, -1, 5, 6]), np.arange(4) % 2)
    with pytest.raises(ValueError, match="of 2 of 4 samples it is unknown"):
        divide_in_folds(unknown, 3, 42, dataset())
    few = table(np.arange(4) * 100, np.arange(4), np.array([0, 0, 0, 1]))
    with pytest.raises(ValueError, match=r"no sample of class excitatory, .*fewer --folds"):
        divide_in_folds(few, 3, 42, dataset())
    crowded = table(np.zeros(12), np.arange(12), np.arange(12) % 2)
    with pytest.raises(ValueError, match=r"every training image of fold 0 overlaps"):
        divide_in_folds(crowded, 3, 42, dataset())
    with pytest.raises(ValueError, match=r"splits\.disjoint_post"):
        divide_in_folds(few, 3, 42, dataset(disjoint_post=True))
