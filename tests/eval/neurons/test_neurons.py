"""Consensus on simulated axons, whose synapses err together."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from eval.inputs.predictions import PredictionsInfo
from eval.metrics.bootstrap import Scored, score, strata_of
from eval.neurons.consensus import (
    AxonModel,
    abstention,
    accuracy_by_synapses,
    as_neurons,
    consensus,
    coverage_at,
    fit_axon_model,
    intraclass_correlation,
    posterior,
    synapses_needed,
)
from eval.subject import make_part

Make = Callable[..., pd.DataFrame]


def scored(frame: pd.DataFrame) -> Scored:
    return replace(make_part(frame, PredictionsInfo(), where="test").scored, tau=0.5)


@pytest.mark.parametrize("axon", [0.0, 0.5, 1.0, 2.0])
def test_correlation_is_found(axon: float) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), rng.integers(2, 30, 400))
    errors = axon * rng.normal(size=400)[groups] + rng.normal(size=len(groups))
    evidence = np.stack([-errors, errors + 3.0 * (groups % 2)], axis=1)
    found = intraclass_correlation(evidence, groups, groups % 2)
    assert found == pytest.approx(axon**2 / (axon**2 + 1.0), abs=0.04)


def test_correlation_without_anything_to_see_it_in_is_not_measured() -> None:
    values = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert intraclass_correlation(values, np.array([0, 1]), np.array([1, 0])) is None


def test_counting_correlation_is_better_calibrated_than_multiplying(make_predictions: Make) -> None:
    options = {"neurons": 300, "axon": 0.8, "gain": 1.2, "sure": 0.6}
    val, test = (scored(make_predictions(seed, **options)) for seed in (1, 2))
    found = consensus(test, test.probabilities, fit_axon_model(val))
    scores = {
        name: score(as_neurons(test, found[name]), ranks=False, num=200)
        for name in ("independent", "correlated")
    }
    for metric, share in (("log_loss", 0.7), ("ece", 0.5), ("brier", 0.9)):
        assert scores["correlated"][metric].value < share * scores["independent"][metric].value
    assert scores["correlated"]["ece"].value < 0.08


def test_without_correlation_the_two_posteriors_are_one(make_predictions: Make) -> None:
    own = scored(make_predictions(1))
    model = replace(fit_axon_model(own), correlation=0.0)
    found = consensus(own, own.probabilities, model)
    np.testing.assert_array_equal(found["independent"], found["correlated"])


def test_one_synapse_of_even_classes_keeps_its_probability() -> None:
    even = np.log([0.5, 0.5])
    model = AxonModel(correlation=0.3, log_rate=even, log_prior=even)
    evidence = np.log([[0.2, 0.8]]) - even
    np.testing.assert_allclose(posterior(model, evidence, np.array([1])), [[0.2, 0.8]])
    # Fully correlated, any number of equal synapses says no more than one.
    model = replace(model, correlation=1.0)
    np.testing.assert_allclose(posterior(model, 7 * evidence, np.array([7])), [[0.2, 0.8]])


def test_votes_and_ties() -> None:
    ones = np.array([0.9, 0.6, 0.1, 0.9, 0.4, 0.3, 0.45])
    own = Scored(
        labels=np.array([1, 1, 1, 0, 0, 0, 0]),
        probabilities=np.stack([1 - ones, ones], axis=1),
        groups=np.array([0, 0, 0, 1, 1, 2, 2]),
        num_groups=3,
        tau=0.5,
    )
    even = np.log([0.5, 0.5])
    found = consensus(
        own, own.probabilities, AxonModel(correlation=0.5, log_rate=even, log_prior=even)
    )
    assert found["majority"].argmax(axis=1).tolist() == [1, 1, 0]  # the tie: 0.9 outweighs 0.4
    assert found["majority"][0, 1] == pytest.approx(2 / 3, abs=1e-5)


def test_more_synapses_help_until_enough(make_predictions: Make) -> None:
    own = scored(make_predictions(5, neurons=200, synapses=40, axon=0.3))
    curve = accuracy_by_synapses(own, own.probabilities, fit_axon_model(own))
    values = [row.balanced_accuracy for row in curve]
    assert curve[0].synapses == 1
    assert curve[0].neurons == 200
    assert values[0] == pytest.approx(score(own, num=2)["balanced_accuracy"].value, abs=0.02)
    assert values[4] > values[0] + 0.08
    needed = synapses_needed(curve, 0.95)
    assert needed is not None
    assert 2 <= needed <= 20
    assert synapses_needed(curve, 1.01) is None


def test_neurons_of_three_classes() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 8)
    labels = groups % 3
    probabilities = rng.dirichlet([1, 1, 1], len(groups)) * 0.5 + 0.5 * np.eye(3)[labels]
    own = Scored(labels=labels, probabilities=probabilities, groups=groups, num_groups=60, tau=None)
    for values in consensus(own, probabilities, fit_axon_model(own)).values():
        np.testing.assert_allclose(values.sum(axis=1), 1.0)
        assert (values.argmax(axis=1) == strata_of(labels, groups, 60)).all()


def test_abstaining_trades_coverage_for_accuracy() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    right = np.array([1.0, 1.0, 0.0, 1.0])
    share, accuracy = abstention(confidence, right)
    assert share.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert accuracy.tolist() == pytest.approx([1.0, 1.0, 2 / 3, 0.75])
    assert coverage_at(confidence, right, 1.0) == 0.5
    assert coverage_at(confidence, right, 0.75) == 1.0
    assert coverage_at(confidence, np.zeros(4), 0.9) == 0.0
