"""Planted merge errors, label errors and odd synapses are found, and little else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from eval.inputs.predictions import PredictionsInfo
from eval.metrics.bootstrap import Scored
from eval.neurons.suspects import (
    LISTED,
    Belief,
    describe,
    learn,
    mislabelled_neurons,
    mixed_neurons,
    odd_synapses,
)
from eval.subject import Part, make_part

Make = Callable[..., pd.DataFrame]
OPTIONS = {"neurons": 80, "synapses": 20, "gain": 3.5, "axon": 0.5}


def opened(frame: pd.DataFrame) -> tuple[Part, Scored]:
    part = make_part(frame, PredictionsInfo(), where="test")
    return part, replace(part.scored, tau=0.5)


@pytest.fixture(scope="module")
def belief(make_predictions: Make) -> Belief:
    return learn(opened(make_predictions(1, **OPTIONS))[1])


def merged(frame: pd.DataFrame, pairs: int) -> tuple[pd.DataFrame, set[int]]:
    """Join excitatory axons to inhibitory ones; half of each pair has the wrong label then."""
    joined = frame["neuron_id"] <= 2 * pairs
    ids = frame["neuron_id"].where(~joined, (frame["neuron_id"] + 1) // 2 + 10_000)
    label = frame["label"].where(~joined, ids % 2)
    return frame.assign(neuron_id=ids, label=label), set(ids[joined])


@pytest.mark.parametrize(("in_validation", "least"), [(0, 0.9), (15, 0.8)])
def test_merged_neurons_are_found(make_predictions: Make, in_validation: int, least: float) -> None:
    val, _ = merged(make_predictions(1, **OPTIONS), in_validation)
    belief = learn(opened(val)[1])
    assert abs(belief.left_out - in_validation) <= 3
    frame, planted = merged(make_predictions(2, **OPTIONS), 10)
    part, scored = opened(frame)
    found = mixed_neurons(belief, scored, part.neuron_ids)
    named = {row.neuron_id for row in found}
    recall = len(planted & named) / len(planted)
    precision = len(planted & named) / len(named)
    assert recall >= least
    assert precision >= 0.9
    assert found[0].neuron_id in planted
    assert sum(found[0].votes) == found[0].synapses


@pytest.mark.parametrize("in_validation", [[], [4, 7, 22, 33, 41, 60, 77]])
def test_mislabelled_neurons_are_found(make_predictions: Make, in_validation: list[int]) -> None:
    val = make_predictions(1, **OPTIONS)
    val["label"] ^= val["neuron_id"].isin(in_validation)
    belief = learn(opened(val)[1])
    frame = make_predictions(2, **OPTIONS)
    frame["label"] ^= frame["neuron_id"].isin([3, 8, 21])
    part, scored = opened(frame)
    found = mislabelled_neurons(belief, scored, part.neuron_ids)
    assert {row.neuron_id for row in found} == {3, 8, 21}


def test_merged_neurons_are_not_called_mislabelled(belief: Belief, make_predictions: Make) -> None:
    frame, _ = merged(make_predictions(2, **OPTIONS), 30)
    # Half of what is like the label is left out, so that the other class is the more frequent.
    own = (frame["synapse_id"] % 2 == 0) | (frame["neuron_id"] % 2 != (frame["probability"] > 0.5))
    part, scored = opened(frame[own].reset_index(drop=True))
    mixed = {row.neuron_id for row in mixed_neurons(belief, scored, part.neuron_ids)}
    wrong = {row.neuron_id for row in mislabelled_neurons(belief, scored, part.neuron_ids)}
    assert len(mixed) > 5
    assert not mixed & wrong


def test_odd_synapses_are_found(belief: Belief, make_predictions: Make) -> None:
    frame = make_predictions(2, **OPTIONS)
    rows = np.array([10, 100, 400, 700])
    frame.loc[rows, "probability"] = np.where(frame.loc[rows, "label"] == 1, 0.001, 0.999)
    part, scored = opened(frame)
    found = odd_synapses(belief, scored)
    assert set(rows) <= set(found[:12].tolist())
    right = scored.predicted == scored.labels
    assert not right[found].any()
    listed = describe(part.frame, found, scored.probabilities)
    assert len(listed) == min(len(found), LISTED)
    assert listed[0].synapse_id == int(frame["synapse_id"].iloc[int(found[0])])


def test_clean_neurons_are_left_alone(belief: Belief, make_predictions: Make) -> None:
    part, scored = opened(make_predictions(3, **OPTIONS))
    found = mixed_neurons(belief, scored, part.neuron_ids)
    assert len(found) <= 1


def test_too_few_neurons_are_all_learned_from(make_predictions: Make) -> None:
    frame, _ = merged(make_predictions(1, neurons=6, synapses=20, gain=3.5), 2)
    assert learn(opened(frame)[1]).left_out == 0
