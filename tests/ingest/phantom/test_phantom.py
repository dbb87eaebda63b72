"""The phantom: true to its tables, readable, the same for the same seed, and without shortcuts."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cloudvolume import CloudVolume
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ingest.job.image_config import QcConfig
from ingest.job.job_file import load_job
from ingest.phantom.fields import POST, PRE, VOXEL_NM, Gray
from ingest.phantom.make_phantom import (
    OFFSET_XYZ,
    Damage,
    draw_sections,
    make_layout,
    make_scene,
)
from ingest.phantom.make_phantom import write_phantom as write
from ingest.phantom.phantom_config import PhantomConfig
from ingest.phantom.phantom_volume import create_volume, write_volume
from ingest.qc.measure import flags, measure

SMALL = PhantomConfig(size=(384, 384, 64), neurons=6, synapses=30, seed=3)
OFFSET_ZYX = np.array(OFFSET_XYZ[::-1])
CUBE, PATCH = np.array([32, 128, 128]), np.array([1, 256, 256])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "one"
    write(out, SMALL)
    return out


def read(out: Path, mip: int) -> Gray:
    volume = CloudVolume(
        f"file://{out / 'em'}", mip=mip, bounded=True, fill_missing=False, progress=False
    )
    return np.asarray(volume[:, :, :])[..., 0].T


def test_quality_control_finds_the_planted_sections(phantom: Path) -> None:
    em, planted = read(phantom, 0), json.loads((phantom / "phantom.json").read_text())
    moved = {int(z) for z in planted["shifted_sections_yx"]}
    lost = {int(z) for z in planted["missing_sections"]}
    for z, y, x in product((0, 8, 16, 24, 32), (0, 128, 256), (0, 128, 256)):
        inside = set(range(z, z + 32)) - lost
        found = flags(measure(em[None, z : z + 32, y : y + 128, x : x + 128]), QcConfig())
        assert ("shifted" in found) == bool(moved & inside), (z, y, x)


def files_of(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def centers(synapses: pd.DataFrame) -> np.ndarray:
    """The voxel (z, y, x) of each cleft in the array that holds the volume."""
    position = synapses[[f"ctr_pt_position_{axis}" for axis in "zyx"]].to_numpy()
    return position // [1, 2, 2] - OFFSET_ZYX


def test_the_volume_reads_strictly_and_looks_exposed(phantom: Path) -> None:
    voxels = read(phantom, 0)
    assert voxels.shape == SMALL.size_zyx
    described = json.loads((phantom / "phantom.json").read_text())
    empty = [z for z in range(len(voxels)) if not voxels[z].any()]
    assert empty == [int(z) for z, part in described["missing_sections"].items() if part == 1.0]
    assert 120 < voxels[voxels > 0].mean() < 160
    assert 25 < voxels[voxels > 0].std() < 60


def test_mip_1_is_the_volume_halved(phantom: Path) -> None:
    voxels, half = read(phantom, 0).astype(float), read(phantom, 1)
    mean = sum(voxels[:, y::2, x::2] for y in (0, 1) for x in (0, 1)) / 4
    assert np.abs(half - mean).mean() < 6, "JPEG alone may differ"


def test_the_volume_has_minnies_scheme(phantom: Path) -> None:
    scales = json.loads((phantom / "em" / "info").read_text())["scales"]
    assert [scale["encoding"] for scale in scales] == ["raw", "jpeg"]
    assert scales[0]["resolution"] == [8, 8, 40]
    assert scales[1]["resolution"] == [16, 16, 40]
    assert scales[0]["chunk_sizes"] == [[128, 128, 16]]
    assert min(scales[0]["voxel_offset"]) > 0
    sharding = scales[0]["sharding"]
    assert (sharding["hash"], sharding["data_encoding"]) == ("identity", "gzip")
    assert min(sharding[f"{part}_bits"] for part in ("preshift", "minishard", "shard")) > 0
    assert len(list((phantom / "em" / "8_8_40").glob("*.shard"))) > 2


@pytest.mark.parametrize("size", [(384, 512, 80), (640, 128, 192)])
def test_every_voxel_is_stored_where_it_belongs(tmp_path: Path, size: tuple[int, int, int]) -> None:
    x, y, z = (np.arange(n) for n in size)

    def draw(first: int, last: int) -> Gray:
        return np.array(
            (29 * z[first:last, None, None] + 13 * y[:, None] + 7 * x) % 251 + 1, np.uint8
        )

    volume = create_volume(tmp_path / "em", size, OFFSET_XYZ)
    assert sum(write_volume(volume, draw, workers=2)) == size[2]
    np.testing.assert_array_equal(read(tmp_path, 0), draw(0, size[2]))


def test_same_config_same_bytes_whatever_the_workers(phantom: Path, tmp_path: Path) -> None:
    write(tmp_path / "two", SMALL, workers=1)
    assert files_of(tmp_path / "two") == files_of(phantom)


def test_another_seed_is_another_phantom() -> None:
    _, one, _ = make_scene(SMALL)
    _, two, _ = make_scene(replace(SMALL, seed=4))
    assert not one["synapses"].equals(two["synapses"])


def test_a_complete_phantom_is_left_alone(
    phantom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (phantom / "phantom.json").stat().st_mtime_ns
    write(phantom, SMALL)
    assert "nothing to do" in capsys.readouterr().err
    assert (phantom / "phantom.json").stat().st_mtime_ns == before


def test_another_phantom_or_a_foreign_folder_is_refused(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose another folder or remove this one"):
        write(phantom, replace(SMALL, seed=4))
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match="not a phantom's; choose a new or empty folder"):
        write(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_phantom_is_not_complete_and_is_made_again(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> Iterator[int]:
        yield 16
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("ingest.phantom.make_phantom.write_volume", stop)
        with pytest.raises(KeyboardInterrupt):
            write(out, replace(SMALL, seed=9))
    assert not (out / "phantom.json").exists()
    assert not (out / "synapses.parquet").exists()
    (out / "em" / "8_8_40").mkdir()
    (out / "em" / "8_8_40" / "stale.shard").touch()
    write(out, SMALL)
    assert files_of(out) == files_of(phantom)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (500, 512, 96)}, "size must be multiples of"),
        ({"size": (128, 512, 96)}, "at least"),
        ({"neurons": 1}, "two neurons or more"),
        ({"neurons": 50}, "a synapse for each"),
        ({"label_noise": 1.5}, "label_noise must be in"),
        ({"contrast": 0.0}, "contrast in"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_a_config_that_cannot_be_says_why(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhantomConfig(**{"size": (512, 512, 96), "neurons": 4, "synapses": 40, **change})


def test_the_tables_have_caves_columns_and_agree(phantom: Path) -> None:
    synapses = pd.read_parquet(phantom / "synapses.parquet")
    cells = pd.read_parquet(phantom / "cell_types.parquet")
    truth = pd.read_parquet(phantom / "truth.parquet")
    points = [f"{p}_pt_position_{axis}" for p in ("pre", "ctr", "post") for axis in "xyz"]
    roots = [f"{p}_pt_{k}_id" for p in ("pre", "post") for k in ("supervoxel", "root")]
    assert {"id", "created", "superceded_id", "valid", "size", *points, *roots} == {*synapses}
    assert synapses["id"].is_unique
    assert len(synapses) == SMALL.synapses
    assert synapses["pre_pt_root_id"].nunique() == SMALL.neurons
    low, high = OFFSET_ZYX, OFFSET_ZYX + SMALL.size_zyx
    for point in ("pre", "ctr", "post"):
        position = synapses[[f"{point}_pt_position_{axis}" for axis in "zyx"]] // [1, 2, 2]
        assert np.all((position >= low) & (position < high))
    joined = synapses.merge(cells, left_on="pre_pt_root_id", right_on="pt_root_id")
    joined = joined.merge(truth, left_on="id_x", right_on="id")
    assert len(joined) == SMALL.synapses
    assert (joined["classification_system"] == joined["class_name"] + "_neuron").all()
    assert cells["target_id"].is_unique
    assert (cells["classification_system"] == "nonneuron").any()


def test_the_job_is_one_that_ingest_reads(phantom: Path) -> None:
    job = load_job(phantom / "ingest.yaml")
    assert job.samples.center == "ctr"
    assert {name: view.size for name, view in job.samples.views.items()} == {
        "patch": (256, 256),
        "cube": (32, 128, 128),
    }


def test_errors_of_segmentation_are_planted_in_the_tables_and_the_truth_stays() -> None:
    config = PhantomConfig(size=(640, 640, 96), neurons=12, synapses=96)
    *_, clean = make_layout(config)
    *_, planted = make_layout(replace(config, merges=3, strays=4))
    truth, table = planted["truth"], planted["synapses"]
    for name in ("pre_pt_root_id", "target_id", "class_name"):
        assert (truth[name] == clean["truth"][name]).all()
    pd.testing.assert_frame_equal(planted["cell_types"], clean["cell_types"])
    rest = table.drop(columns="pre_pt_root_id")
    pd.testing.assert_frame_equal(rest, clean["synapses"].drop(columns="pre_pt_root_id"))

    moved = table["pre_pt_root_id"] != truth["pre_pt_root_id"]
    assert ((truth["error"] != "") == moved).all()
    class_of = truth.groupby("pre_pt_root_id")["class_name"].first()
    adopted = table["pre_pt_root_id"].map(class_of)
    assert (adopted[moved] != truth["class_name"][moved]).all()
    assert (adopted == truth["table_class_name"]).all()
    assert (truth["error"] == "stray").sum() == 4
    merged = truth[truth["error"] == "merge"]
    assert merged["pre_pt_root_id"].nunique() == 3
    assert set(merged["class_name"]) == {"excitatory", "inhibitory"}
    assert not set(merged["pre_pt_root_id"]) & set(table["pre_pt_root_id"])
    with pytest.raises(ValueError, match="leave a neuron of each class of 12 unmerged"):
        replace(config, merges=6)
    with pytest.raises(ValueError, match="strays must be at most"):
        make_layout(replace(config, strays=97))


def test_label_noise_turns_neurons_of_both_classes_and_the_truth_stays() -> None:
    _, clean, _ = make_scene(SMALL)
    _, noisy, _ = make_scene(replace(SMALL, label_noise=0.34))
    truth = noisy["truth"]
    assert (truth["class_name"] == clean["truth"]["class_name"]).all()
    wrong = truth[truth["class_name"] != truth["table_class_name"]]
    assert wrong.groupby("class_name")["target_id"].nunique().to_dict() == {
        "excitatory": 1,
        "inhibitory": 1,
    }


def test_each_cleft_lies_between_its_bouton_and_its_spine() -> None:
    scene, _, _ = make_scene(SMALL)
    synapses = scene.synapses
    agree = []
    for center, normal in zip(synapses.center_nm, synapses.normal, strict=True):
        for side, owner in ((-110, PRE), (110, POST)):
            z, y, x = (center + side * normal) / VOXEL_NM
            plane = scene.owners.plane(z)
            if 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1] and 0 <= z < 64:
                agree.append(plane[int(y), int(x)] == owner)
    assert np.mean(agree) > 0.9, "a bouton may be cut by a neighbour, most are not"


def test_contrast_scales_structure_and_not_noise() -> None:
    def spread(contrast: float) -> float:
        scene, _, _ = make_scene(replace(SMALL, contrast=contrast))
        return float(draw_sections(scene, Damage({}, {}), 20, 21).std())

    assert spread(0.4) < 0.5 * spread(1.0)


@pytest.fixture(scope="module")
def default_tables() -> dict[str, pd.DataFrame]:
    """The tables of the default phantom: where its synapses are depends on no voxel."""
    *_, tables = make_layout(PhantomConfig())
    return tables


def test_no_box_of_one_neuron_overlaps_one_of_another(
    default_tables: dict[str, pd.DataFrame],
) -> None:
    synapses = default_tables["synapses"][~default_tables["truth"]["at_edge"]]
    center, neuron = centers(synapses), synapses["pre_pt_root_id"].to_numpy()
    apart = np.abs(center[:, None] - center)
    others = neuron[:, None] != neuron
    for box in (CUBE, PATCH):
        assert not (np.all(apart < box, axis=-1) & others).any()


def test_synapses_fit_but_for_those_at_the_edge(default_tables: dict[str, pd.DataFrame]) -> None:
    at_edge = default_tables["truth"]["at_edge"]
    center, size = centers(default_tables["synapses"]), np.array(PhantomConfig().size_zyx)
    half = np.maximum(CUBE, PATCH) // 2
    fits = np.all((center >= half) & (center + half <= size), axis=1)
    assert (fits == ~at_edge).all()
    assert 2 <= at_edge.sum() < 0.05 * len(at_edge)


def metadata(tables: dict[str, pd.DataFrame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and neurons: all that the tables say of a synapse but its class."""
    synapses = tables["synapses"].drop(columns=["created", "superceded_id", "valid"])
    per_neuron = synapses.groupby("pre_pt_root_id")["id"].transform("count")
    per_partner = synapses.groupby("post_pt_root_id")["id"].transform("count")
    rank = np.arange(len(synapses))
    features = np.column_stack([synapses, per_neuron, per_partner, rank]).astype(float)
    label = (tables["truth"]["class_name"] == "excitatory").to_numpy().astype(int)
    return features, label, synapses["pre_pt_root_id"].to_numpy()


@pytest.mark.parametrize("model", ["logistic", "forest"])
def test_metadata_alone_scores_at_chance(
    model: str, default_tables: dict[str, pd.DataFrame]
) -> None:
    features, label, neuron = metadata(default_tables)
    classifier = (
        make_pipeline(StandardScaler(), LogisticRegression())
        if model == "logistic"
        else RandomForestClassifier(200, min_samples_leaf=5, random_state=0)
    )
    folds = GroupKFold(10, shuffle=True, random_state=0)
    score = cross_val_predict(
        classifier, features, label, groups=neuron, cv=folds, method="predict_proba"
    )[:, 1]
    rng = np.random.default_rng(0)
    members = {n: np.flatnonzero(neuron == n) for n in np.unique(neuron)}
    sampled = []
    for _ in range(500):
        rows = np.concatenate([members[n] for n in rng.choice(list(members), len(members))])
        sampled.append(roc_auc_score(label[rows], score[rows]))
    low, high = np.percentile(sampled, [2.5, 97.5])
    assert low < 0.5 < high, f"AUROC between {low:.3f} and {high:.3f}"


def test_no_simple_statistic_of_the_pixels_tells_the_classes_apart() -> None:
    config = PhantomConfig(size=(896, 768, 96), neurons=10, synapses=130, seed=7)
    scene, tables, _ = make_scene(config)
    voxels = draw_sections(scene, Damage({}, {}), 0, config.size[2])
    center, excitatory = centers(tables["synapses"]), tables["truth"]["class_name"] == "excitatory"
    for box in ((1, 16, 16), (1, 64, 64), (4, 16, 16), (8, 32, 32), (16, 64, 64)):
        half = np.array(box) // 2
        inside = np.all((center >= half) & (center + half + 1 <= voxels.shape), axis=1)
        starts = center[inside] - half
        cut = [voxels[z : z + box[0], y : y + box[1], x : x + box[2]].ravel() for z, y, x in starts]
        pixels = np.stack(cut).astype(np.float32)
        for name, value in (
            ("mean", pixels.mean(1)),
            ("std", pixels.std(1)),
            ("min", pixels.min(1)),
            ("first percentile", np.percentile(pixels, 1, axis=1)),
        ):
            score = roc_auc_score(excitatory[inside], value)
            # 0.2 is four standard errors of 130 synapses, where the default has 1,005.
            assert 0.3 < score < 0.7, f"{name} of {box}: AUROC {score:.3f}"


def test_a_broken_description_names_the_cure(phantom: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(phantom, out)
    (out / "phantom.json").write_text("{")
    with pytest.raises(ValueError, match="remove the folder and make it again"):
        write(out, SMALL)
