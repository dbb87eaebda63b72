"""Predictions as other tools write them: scored right, or what is doubtful is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval.__main__ import main
from eval.inputs.predictions import read_predictions
from shards.cli.command import run_command

Make = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def table(make_predictions: Make) -> pd.DataFrame:
    """Predictions on test alone, by a good model."""
    return make_predictions(1, neurons=12, gain=2.5)


def evaluated(path: Path) -> dict[str, Any]:
    """Return the run of metrics.json."""
    assert run_command(main, [str(path), "--out", str(path.parent), "--no-images"]) == 0
    run: dict[str, Any] = json.loads((path.parent / "metrics.json").read_text())["runs"][0]
    return run


def two_columns(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return the table with the probability of class 1 in `first`, and of class 0 in `second`."""
    columns = {first: table["probability"], second: 1 - table["probability"]}
    return table.drop(columns="probability").assign(**columns)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("probability_Excitatory", "probability_Inhibitory"),
        ("PROBABILITY_EXCITATORY", "PROBABILITY_INHIBITORY"),
        ("probability_excitatory", "probability_INHIBITORY"),
    ],
)
def test_our_classes_are_known_in_any_case(
    table: pd.DataFrame, tmp_path: Path, first: str, second: str
) -> None:
    two_columns(table, first, second).to_csv(tmp_path / "p.csv", index=False)
    frame, info = read_predictions(tmp_path / "p.csv")
    assert info.class_names == ("inhibitory", "excitatory")
    np.testing.assert_allclose(frame["probability"], table["probability"])


def test_the_order_of_classes_that_only_columns_name_is_said(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    two_columns(table, "probability_glut", "probability_gaba").to_csv(tmp_path / "p.csv")
    notes = evaluated(tmp_path / "p.csv")["notes"]
    assert any("numbered as their columns stand (glut 0, gaba 1)" in note for note in notes)
    assert any("the classes may be swapped" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda p: p.round(), "All probabilities are 0 or 1"),
        (lambda p: np.maximum(p, 1 - p), "No probability is below 0.5"),
        (lambda p: p, ""),
    ],
)
def test_what_is_no_probability_of_class_1_is_said(
    table: pd.DataFrame, tmp_path: Path, change: Callable[[Any], Any], note: str
) -> None:
    table.assign(probability=change(table["probability"])).to_csv(tmp_path / "p.csv")
    notes = evaluated(tmp_path / "p.csv")["notes"]
    doubts = ("All probabilities are 0 or 1", "No probability is below 0.5", "numbered as their")
    assert [doubt for doubt in doubts if any(doubt in n for n in notes)] == ([note] if note else [])


@pytest.mark.parametrize("column", ["neuron_id", "pre_root_id", "post_root_id"])
def test_ids_below_0_are_refused(table: pd.DataFrame, tmp_path: Path, column: str) -> None:
    table.assign(**{column: -1}).to_csv(tmp_path / "p.csv")
    with pytest.raises(ValueError, match=rf"{column} -1 .*leave the cell empty, or write 0"):
        read_predictions(tmp_path / "p.csv")


def test_a_line_for_excel_alone_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("sep=;\nsynapse_id;probability\n1;0.5\n")
    with pytest.raises(ValueError, match=r"p\.csv: begins with a line `sep=`.*remove that line"):
        read_predictions(tmp_path / "p.csv")
