"""Planted merge errors, label errors and odd synapses are found, and little else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from eval.bootstrap import Scored, strata_of
from eval.neurons import AxonModel, consensus, fit_axon_model
from eval.predictions import PredictionsInfo
from eval.subject import Part, make_part
from eval.suspects import LISTED, describe, mislabelled_neurons, mixed_neurons, odd_synapses

Make = Callable[..., pd.DataFrame]
OPTIONS = {"neurons": 80, "synapses": 20, "gain": 3.5, "axon": 0.5}


def opened(frame: pd.DataFrame) -> tuple[Part, Scored]:
    part = make_part(frame, PredictionsInfo(), where="test")
    return part, replace(part.scored, tau=0.5)


def model_of(make_predictions: Make) -> AxonModel:
    return fit_axon_model(opened(make_predictions(1, **OPTIONS))[1])


def test_merged_neurons_are_found(make_predictions: Make) -> None:
    model = model_of(make_predictions)
    frame = make_predictions(2, **OPTIONS)
    merged = np.arange(1, 21)  # ten excitatory axons joined to ten inhibitory ones
    joined = np.isin(frame["neuron_id"], merged)
    frame.loc[joined, "neuron_id"] = (frame.loc[joined, "neuron_id"] + 1) // 2 + 10_000
    part, scored = opened(frame)
    found = mixed_neurons(scored, scored.probabilities, model, part.neuron_ids)
    planted = set(range(10_001, 10_011))
    named = {row["neuron_id"] for row in found}
    recall = len(planted & named) / len(planted)
    precision = len(planted & named) / len(named)
    assert recall >= 0.9
    assert precision >= 0.9
    assert found[0]["neuron_id"] in planted
    assert sum(found[0]["votes"]) == found[0]["synapses"]


def test_mislabelled_neurons_are_found(make_predictions: Make) -> None:
    model = model_of(make_predictions)
    frame = make_predictions(2, **OPTIONS)
    wrong = frame["neuron_id"].isin([3, 8, 21])
    frame.loc[wrong, "label"] = 1 - frame.loc[wrong, "label"]
    part, scored = opened(frame)
    posteriors = consensus(scored, scored.probabilities, model)["correlated"]
    truth = strata_of(scored.labels, scored.groups, scored.num_groups)
    found = mislabelled_neurons(scored, posteriors, truth, part.neuron_ids)
    assert {row["neuron_id"] for row in found} == {3, 8, 21}


def test_odd_synapses_are_found(make_predictions: Make) -> None:
    model = model_of(make_predictions)
    frame = make_predictions(2, **OPTIONS)
    rows = np.array([10, 100, 400, 700])
    frame.loc[rows, "probability"] = np.where(frame.loc[rows, "label"] == 1, 0.001, 0.999)
    part, scored = opened(frame)
    found = odd_synapses(scored, scored.probabilities, model)
    assert set(rows) <= set(found[:12].tolist())
    right = scored.predicted == scored.labels
    assert not right[found].any()
    listed = describe(part.frame, found, scored.probabilities)
    assert len(listed) == min(len(found), LISTED)
    assert listed[0]["synapse_id"] == int(frame["synapse_id"].iloc[int(found[0])])


def test_clean_neurons_are_left_alone(make_predictions: Make) -> None:
    model = model_of(make_predictions)
    part, scored = opened(make_predictions(3, **OPTIONS))
    found = mixed_neurons(scored, scored.probabilities, model, part.neuron_ids)
    assert len(found) <= 1
