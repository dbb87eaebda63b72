"""Calibrators fitted on some neurons lower the calibration error of others."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import special

from eval.inputs.predictions import Floats, Ints, PredictionsInfo
from eval.metrics.bootstrap import score
from eval.metrics.calibration import CALIBRATORS, choose, fit, methods_for
from eval.subject import Part, make_part

Make = Callable[..., pd.DataFrame]


def part(frame: pd.DataFrame) -> Part:
    return make_part(frame, PredictionsInfo(), where="test")


def calibration_error(own: Part, probabilities: Floats) -> float:
    return score(replace(own.scored, probabilities=probabilities), ranks=False, num=10)["ece"].value


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_calibration_mends_too_sure_predictions(make_predictions: Make, method: str) -> None:
    options = {"neurons": 80, "axon": 0.0, "sure": 3.0}
    val, test = (part(make_predictions(seed, **options)) for seed in (1, 2))
    calibrate = fit(method, val.scored.labels, val.scored.probabilities)
    before = calibration_error(test, test.scored.probabilities)
    after = calibration_error(test, calibrate(test.scored.probabilities))
    assert after < before / 2
    assert choose(val.scored.labels, val.scored.probabilities, val.scored.groups) != "none"


def test_calibration_mends_what_neurons_of_the_wrong_label_do(make_predictions: Make) -> None:
    options = {"neurons": 120, "gain": 4.0, "axon": 0.0}
    val, test = (part(_noisy(make_predictions(seed, **options))) for seed in (1, 2))
    chosen = choose(val.scored.labels, val.scored.probabilities, val.scored.groups)
    calibrate = fit(chosen, val.scored.labels, val.scored.probabilities)
    assert chosen != "none"
    before = calibration_error(test, test.scored.probabilities)
    assert calibration_error(test, calibrate(test.scored.probabilities)) < before / 2


def _noisy(frame: pd.DataFrame) -> pd.DataFrame:
    """Call every fifth neuron by the other class."""
    return frame.assign(label=frame["label"] ^ (frame["neuron_id"] % 5 == 0))


@pytest.mark.parametrize("method", CALIBRATORS)
def test_calibrated_probabilities_are_probabilities(make_predictions: Make, method: str) -> None:
    own = part(make_predictions(3, sure=4.0)).scored
    values = fit(method, own.labels, own.probabilities)(
        np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    )
    np.testing.assert_allclose(values.sum(axis=1), 1.0)
    assert values.min() >= 0.0
    assert (values.min() > 0.0) == (method in {"platt", "isotonic", "temperature"})


def test_temperature_finds_how_much_too_sure() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2.0
    chance = special.softmax(logits, axis=1)
    labels: Ints = (rng.random((20_000, 1)) > chance.cumsum(axis=1)).sum(axis=1)
    calibrate = fit("temperature", labels, special.softmax(3.0 * logits, axis=1))
    np.testing.assert_allclose(calibrate(special.softmax(3.0 * logits, axis=1)), chance, atol=0.02)
    assert methods_for(3) == ("none", "temperature")


def test_one_validation_neuron_is_not_split(make_predictions: Make) -> None:
    own = part(make_predictions(3)).scored
    assert choose(own.labels, own.probabilities, np.zeros_like(own.groups)) == "temperature"
