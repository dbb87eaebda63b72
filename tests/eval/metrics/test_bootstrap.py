"""Intervals over neurons hold what they promise, where intervals over synapses do not."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import average_precision_score, roc_auc_score

from eval.inputs.predictions import Floats
from eval.metrics.bootstrap import (
    SUM_METRICS,
    Scored,
    bootstrap_ranks,
    bootstrap_sums,
    bundled,
    difference,
    draw,
    interval,
    score,
    strata_of,
)
from eval.metrics.metrics import rankings


def simulate(rng: np.random.Generator, neurons: int, spread: float, synapses: int = 20) -> Scored:
    """Return synapses whose chance to be right varies from neuron to neuron (logit-normal)."""
    groups = np.repeat(np.arange(neurons), rng.poisson(synapses, neurons) + 1)
    labels = groups % 2
    right = rng.random(len(groups)) < special.expit(1.2 + spread * rng.normal(size=neurons))[groups]
    ones = np.where(right, labels, 1 - labels) * 0.8 + 0.1
    return Scored(
        labels=labels,
        probabilities=np.stack([1 - ones, ones], axis=1),
        groups=groups,
        num_groups=neurons,
        tau=0.5,
    )


def covers(scored: Scored, truth: float, num: int = 600) -> bool:
    strata = strata_of(scored.labels, scored.groups, scored.num_groups)
    drawn = bootstrap_sums(scored.sums(), strata, ("balanced_accuracy",), num)
    value = score(scored, ranks=False, num=2)["balanced_accuracy"].value
    found = interval(value, drawn["balanced_accuracy"], strata)
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


@pytest.mark.parametrize("neurons", [16, 60])
def test_neuron_intervals_cover_and_synapse_intervals_do_not(neurons: int) -> None:
    rng = np.random.default_rng(4)
    truth = float(special.expit(1.2 + rng.normal(size=1_000_000)).mean())
    by_neuron, by_synapse = [], []
    for _ in range(400 if neurons == 16 else 200):
        scored = simulate(rng, neurons, 1.0)
        alone = replace(scored, groups=np.arange(len(scored.labels)), num_groups=len(scored.labels))
        by_neuron.append(covers(scored, truth))
        by_synapse.append(covers(alone, truth, num=100) if len(by_synapse) < 50 else False)
    assert 0.93 <= np.mean(by_neuron) <= 0.97
    assert np.mean(by_synapse[:50]) < 0.8


def test_weights_draw_every_stratum_to_its_size() -> None:
    strata = np.array([0, 0, 0, 1, 1, 2])
    weights = np.concatenate(list(draw(strata, 50)))
    assert weights.shape == (50, 6)
    np.testing.assert_array_equal(weights[:, :3].sum(axis=1), 3)
    np.testing.assert_array_equal(weights[:, 3:5].sum(axis=1), 2)
    np.testing.assert_array_equal(weights[:, 5], 1)
    np.testing.assert_array_equal(weights, np.concatenate(list(draw(strata, 50))))


@pytest.mark.parametrize("digits", [2, 9])
def test_ranking_replicates_equal_scikit_learns(digits: int) -> None:
    rng = np.random.default_rng(0)
    scored = simulate(rng, 12, 1.0)
    ones = np.round(
        np.clip(scored.probabilities[:, 1] + rng.normal(0, 0.2, len(scored.labels)), 0, 1), digits
    )
    scored = replace(scored, probabilities=np.stack([1 - ones, ones], axis=1))
    strata = strata_of(scored.labels, scored.groups, scored.num_groups)
    found = bootstrap_ranks(scored, rankings(scored.probabilities), strata, 20)
    for row, weight in enumerate(np.concatenate(list(draw(strata, 20)))):
        weights = weight[scored.groups]
        area = roc_auc_score(scored.labels, ones, sample_weight=weights)
        precision = average_precision_score(scored.labels, ones, sample_weight=weights)
        assert found["auroc"][row] == pytest.approx(area)
        assert found["average_precision"][row] == pytest.approx(precision)


def test_many_scores_are_ranked_in_parts_that_change_little() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 20_000)
    ones = special.expit(labels + rng.normal(size=20_000))
    scored = Scored(
        labels=labels,
        probabilities=np.stack([1 - ones, ones], axis=1),
        groups=np.arange(20_000) // 10,
        num_groups=2000,
        tau=0.5,
    )
    strata = np.zeros(2000, np.int64)
    found = bootstrap_ranks(scored, rankings(scored.probabilities), strata, 3)["auroc"]
    for row, weight in enumerate(np.concatenate(list(draw(strata, 3)))):
        area = roc_auc_score(labels, ones, sample_weight=weight[scored.groups])
        assert found[row] == pytest.approx(area, abs=2e-4)


def test_a_perfect_score_keeps_a_lower_end() -> None:
    groups = np.repeat(np.arange(20), 5)
    ones = np.where(groups % 2 == 1, 0.9, 0.1)
    perfect = Scored(
        labels=groups % 2,
        probabilities=np.stack([1 - ones, ones], axis=1),
        groups=groups,
        num_groups=20,
        tau=0.5,
    )
    found = score(perfect)["balanced_accuracy"]
    assert found.low == pytest.approx(0.025 ** (1 / 20))
    assert found.high == 1.0


def test_a_class_of_one_neuron_has_no_interval() -> None:
    scored = simulate(np.random.default_rng(0), 3, 1.0)
    assert score(scored)["accuracy"].low is None


def shifted(scored: Scored, by: Floats) -> Scored:
    ones = np.clip(scored.probabilities[:, 1] + by, 0, 1)
    return replace(scored, probabilities=np.stack([1 - ones, ones], axis=1))


def test_no_difference_between_the_same() -> None:
    scored = simulate(np.random.default_rng(0), 30, 1.0)
    for metric in (*SUM_METRICS, "auroc"):
        gap = difference(scored, scored, metric)
        p_value = gap.p_value
        assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)
        assert p_value in {1.0, None}


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    scored = simulate(np.random.default_rng(0), 40, 1.5)
    help_some = np.where(np.arange(len(scored.labels)) % 8 == 0, 1.0, 0.0)
    better = shifted(scored, help_some * (2 * scored.labels - 1))
    gap = difference(scored, better)
    p_value = gap.p_value
    assert gap.low is not None
    assert gap.low > 0
    assert p_value is not None
    assert p_value < 0.01
    first, second = (score(s, ranks=False)["balanced_accuracy"] for s in (scored, better))
    assert first.high is not None
    assert second.low is not None
    assert first.high > second.low  # unpaired, nothing could be said


def test_p_values_of_chance_are_even() -> None:
    rng = np.random.default_rng(1)
    values = []
    for _ in range(200):
        first = simulate(rng, 20, 1.0)
        right = (
            rng.random(len(first.labels)) < special.expit(1.2 + rng.normal(size=20))[first.groups]
        )
        ones = np.where(right, first.labels, 1 - first.labels) * 0.8 + 0.1
        second = replace(first, probabilities=np.stack([1 - ones, ones], axis=1))
        values.append(difference(first, second, num=200).p_value)
    assert 0.01 <= np.mean(np.array(values, float) <= 0.05) <= 0.1
    assert np.mean(np.array(values, float)) == pytest.approx(0.5, abs=0.07)


def test_bundles_of_many_neurons_give_the_same_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = simulate(np.random.default_rng(0), 3000, 1.0, synapses=3)
    whole = score(scored)
    monkeypatch.setattr("eval.metrics.bootstrap.MOST_UNITS", 500)
    some = bundled(scored)
    assert some.num_groups == 1000
    strata = strata_of(some.labels, some.groups, 1000)
    assert np.bincount(strata).tolist() == [500, 500]
    for name, found in score(scored).items():
        own = whole[name]
        assert found.value == pytest.approx(own.value)
        assert own.low is not None
        assert own.high is not None
        assert found.low == pytest.approx(own.low, abs=0.2 * (own.high - own.low))
        assert found.high == pytest.approx(own.high, abs=0.2 * (own.high - own.low))
