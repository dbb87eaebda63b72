"""What a proofreader should look at: axons that disagree with themselves, synapses with axons.

Evidence (n, k) is the log likelihood of a synapse under each class, from `neurons.evidence_of`.
"""

from typing import Any

import numpy as np
import pandas as pd

from eval.bootstrap import Scored
from eval.neurons import AxonModel, evidence_of, group_sums, posterior
from eval.predictions import Floats, Ints

SHARES = np.arange(0.1, 0.91, 0.1)
MIXED_AT = float(np.log(20.0))  # twenty times likelier with two classes than with one
SURE = 0.99
AGAINST = 0.05  # a synapse is at odds when it gives its axon's class no more than this
SYNAPSES_AT_LEAST = 4
LISTED = 50


def mixture_scores(model: AxonModel, evidence: Floats, groups: Ints, num_groups: int) -> Floats:
    """Return (m,) how much likelier, in logs, two classes explain a neuron than one does.

    max over shares f and classes b of Σ log(f L_a + (1 - f) L_b) - Σ log L_a, a the best single
    class, with the sum counted as the independent synapses that it is worth.
    """
    sums = group_sums(evidence, groups, num_groups)
    best = sums.argmax(axis=1)
    own = np.take_along_axis(evidence, best[groups][:, None], axis=1)
    gain = np.zeros(num_groups)
    for other in range(evidence.shape[1]):
        ratio = np.exp(evidence[:, other] - own[:, 0])
        for share in SHARES:
            mixed = np.log(share + (1.0 - share) * ratio)
            gain = np.maximum(gain, np.bincount(groups, mixed, minlength=num_groups))
    counts = np.bincount(groups, minlength=num_groups)
    return np.asarray(gain / (1.0 + np.maximum(counts - 1, 0) * model.correlation))


def mixed_neurons(
    scored: Scored, calibrated: Floats, model: AxonModel, neuron_ids: Ints
) -> list[dict[str, Any]]:
    """Return neurons that two classes explain better than one, likeliest merge errors first."""
    scores = mixture_scores(model, evidence_of(model, calibrated), scored.groups, scored.num_groups)
    counts = np.bincount(scored.groups, minlength=scored.num_groups)
    votes = group_sums(np.eye(calibrated.shape[1])[scored.predicted], scored.groups, len(counts))
    found = np.flatnonzero((scores > MIXED_AT) & (counts >= SYNAPSES_AT_LEAST))
    return [
        {
            "neuron_id": int(neuron_ids[j]),
            "synapses": int(counts[j]),
            "votes": [int(v) for v in votes[j]],
            "log_ratio": round(float(scores[j]), 2),
        }
        for j in found[np.argsort(-scores[found], kind="stable")]
    ]


def mislabelled_neurons(
    scored: Scored, posteriors: Floats, truth: Ints, neuron_ids: Ints
) -> list[dict[str, Any]]:
    """Return neurons whose synapses are sure of another class than their label, surest first."""
    guess, sure = posteriors.argmax(axis=1), posteriors.max(axis=1)
    counts = np.bincount(scored.groups, minlength=scored.num_groups)
    found = np.flatnonzero((guess != truth) & (sure >= SURE) & (counts >= SYNAPSES_AT_LEAST))
    return [
        {
            "neuron_id": int(neuron_ids[j]),
            "synapses": int(counts[j]),
            "label": int(truth[j]),
            "consensus": int(guess[j]),
            "posterior": float(sure[j]),
        }
        for j in found[np.argsort(-sure[found], kind="stable")]
    ]


def odd_synapses(scored: Scored, calibrated: Floats, model: AxonModel) -> Ints:
    """Return rows of synapses at odds with their neuron, which is sure without them; worst first.

    Possible label or detection errors.
    """
    m = scored.num_groups
    evidence = evidence_of(model, calibrated)
    sums = group_sums(evidence, scored.groups, m)
    counts = np.bincount(scored.groups, minlength=m)
    best = posterior(model, sums, counts).argmax(axis=1)
    own = np.take_along_axis(calibrated, best[scored.groups][:, None], axis=1)[:, 0]
    rows = np.flatnonzero((own <= AGAINST) & (counts[scored.groups] > SYNAPSES_AT_LEAST))
    axon = scored.groups[rows]
    without = posterior(model, sums[axon] - evidence[rows], counts[axon] - 1)
    sure = without[np.arange(len(rows)), best[axon]] >= SURE
    rows = rows[sure]
    ordered: Ints = rows[np.argsort(own[rows], kind="stable")]
    return ordered


def describe(frame: pd.DataFrame, rows: Ints, calibrated: Floats) -> list[dict[str, Any]]:
    """Return identity, place and calibrated P(class) of rows, at most `LISTED`."""
    names = ("synapse_id", "key", "neuron_id", "center_x_nm", "center_y_nm", "center_z_nm")
    return [
        {
            name: frame[name].iloc[row].item() if name != "key" else str(frame[name].iloc[row])
            for name in names
            if name in frame
        }
        | {"label": int(frame["label"].iloc[row]), "probabilities": calibrated[row].tolist()}
        for row in rows[:LISTED]
    ]
