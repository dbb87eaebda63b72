"""Folds pooled: every neuron once, each fold by its own threshold."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from scipy import special

from eval.__main__ import main
from eval.inputs.predictions import read_predictions
from eval.report.pool_folds import pool_folds


@pytest.fixture
def folds(
    tmp_path: Path,
    make_predictions: Callable[..., pd.DataFrame],
    run_maker: Callable[..., Path],
) -> tuple[Path, ...]:
    """Return three runs on neurons of their own, each with log odds too high by 3 more."""
    made = []
    for number in range(3):
        frames = {"val": make_predictions(number, first_neuron=500)}
        frames["test"] = make_predictions(10 + number, first_neuron=100 * number + 1)
        frames["test"].loc[:1, "neuron_id"] = 0  # unknown, which no two folds share
        for frame in frames.values():
            frame["probability"] = special.expit(special.logit(frame["probability"]) + 3 * number)
        made.append(run_maker(tmp_path / f"fold{number}", frames))
    return tuple(made)


def test_each_fold_is_judged_by_its_own_threshold(
    folds: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pooled"
    main([*map(str, folds), "--pool", "--out", str(out)])
    pooled, info = read_predictions(out / "pooled.parquet")
    parts = [read_predictions(run / "predictions/test.parquet")[0] for run in folds]
    assert len(pooled) == sum(map(len, parts))
    assert info.run == "3 folds pooled"
    said = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[:3]]
    run = json.loads((out / "metrics.json").read_text())["runs"][0]
    scores = run["metrics"]
    assert min(map(float, said)) <= scores["balanced_accuracy"]["value"] <= max(map(float, said))
    assert "each fold's threshold comes from its own validation" in run["notes"][0]


def test_what_are_no_folds(folds: tuple[Path, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="30 of 60 neurons are tested in several of the 3 runs"):
        pool_folds((*folds[:2], folds[0]), tmp_path / "out", "balanced_accuracy")
    (folds[1] / "predictions/val.parquet").unlink()
    with pytest.raises(ValueError, match="no predictions on val beside it"):
        pool_folds(folds, tmp_path / "out", "balanced_accuracy")
