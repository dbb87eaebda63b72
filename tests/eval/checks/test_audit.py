"""Planted leaks are caught; clean splits are left alone."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from eval.checks.audit import Finding, audit_images, audit_tables

Make = Callable[..., pd.DataFrame]
BOX = (1024.0, 1024.0, 1280.0)


def splits(make: Make) -> dict[str, pd.DataFrame]:
    frames = {
        name: make(seed, first_neuron=1000 * seed + 1)
        for seed, name in enumerate(("train", "val", "test"))
    }
    for place, frame in enumerate(frames.values()):
        frame["center_z_nm"] += 2e5 * place
    return frames


def found(findings: list[Finding]) -> dict[tuple[str, tuple[str, str]], int]:
    return {(f.check, f.splits): f.found for f in findings if f.found}


def test_clean_splits_pass(make_predictions: Make) -> None:
    findings = audit_tables(splits(make_predictions), BOX)
    assert len(findings) == 9
    assert not found(findings)


def test_a_shared_neuron_is_caught(make_predictions: Make) -> None:
    frames = splits(make_predictions)
    frames["test"].loc[frames["test"]["neuron_id"] == 2001, "neuron_id"] = 7
    findings = audit_tables(frames, BOX)
    assert found(findings) == {("shared neurons", ("train", "test")): 1}
    assert next(f for f in findings if f.found).examples == ("7",)


def test_unknown_neurons_are_not_shared(make_predictions: Make) -> None:
    frames = {name: frame.assign(neuron_id=0) for name, frame in splits(make_predictions).items()}
    assert not found(audit_tables(frames, BOX))


def test_samples_without_a_place_are_left_out_and_the_others_compared(
    make_predictions: Make,
) -> None:
    frames = splits(make_predictions)
    frames["val"].loc[0, "center_z_nm"] = np.nan
    frames["train"].loc[[0, 2], "center_x_nm"] = np.nan
    place = ["center_x_nm", "center_y_nm", "center_z_nm"]
    frames["val"].loc[3, place] = frames["train"].loc[5, place].to_numpy() + 100
    findings = audit_tables(frames, BOX)
    assert found(findings) == {("overlapping boxes", ("train", "val")): 1}
    of = next(f for f in findings if f.found).of
    assert of == len(frames["val"]) - 1
    nowhere = {name: frame.assign(center_x_nm=np.nan) for name, frame in frames.items()}
    assert not found(audit_tables(nowhere, BOX))


def test_a_duplicate_sample_is_caught(make_predictions: Make) -> None:
    frames = splits(make_predictions)
    frames["val"].loc[3, "synapse_id"] = frames["train"]["synapse_id"].iloc[5]
    assert found(audit_tables(frames, None)) == {("duplicate samples", ("train", "val")): 1}


@pytest.mark.parametrize(("apart", "overlaps"), [(0.99, 1), (1.0, 0), (1.01, 0)])
@pytest.mark.parametrize("axis", range(3))
def test_overlapping_boxes_are_caught(
    make_predictions: Make, apart: float, overlaps: int, axis: int
) -> None:
    frames = splits(make_predictions)
    place = frames["train"].loc[4, ["center_x_nm", "center_y_nm", "center_z_nm"]].to_numpy(float)
    place[axis] += apart * BOX[axis]
    frames["test"].loc[2, ["center_x_nm", "center_y_nm", "center_z_nm"]] = place
    expected = {("overlapping boxes", ("train", "test")): 1} if overlaps else {}
    assert found(audit_tables(frames, BOX)) == expected


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 8, 64, 64)])
def test_a_duplicate_image_is_caught(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 255, (40, *shape)).astype(np.uint8) for name in ("train", "test")
    }
    assert not found(audit_images(images))
    brighter = images["train"][11].astype(float) * 0.8 + 40 + rng.normal(0, 2, shape)
    images["test"][5] = brighter.clip(0, 255).astype(np.uint8)
    findings = audit_images(images)
    assert found(findings) == {("duplicate images", ("train", "test")): 1}
    assert findings[0].examples == ("row 5",)
