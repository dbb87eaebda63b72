"""Suspects for a proofreader: axons that disagree with themselves, synapses with axons.

Evidence (n, k) is the log likelihood of a synapse under each class, from `neurons.evidence_of`.
The same errors are in validation, where they would teach that nothing is ever sure: what is
learned there for these lists is learned without the neurons that stand out themselves.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eval.inputs.predictions import CENTERS, Floats, Ints
from eval.metrics.bootstrap import Scored, strata_of
from eval.metrics.calibration import Calibrator, choose, fit
from eval.metrics.strata import subset
from eval.neurons.consensus import AxonModel, evidence_of, fit_axon_model, group_sums, posterior
from eval.results import MislabelledNeuron, MixedNeuron, OddSynapse

SHARES = np.arange(0.1, 0.91, 0.1)
MIXED_AT = float(np.log(20.0))  # twenty times likelier with two classes than with one
SURE = 0.99
AGAINST = 0.05  # a synapse is at odds when it gives its axon's class no more than this
SYNAPSES_AT_LEAST = 4
LISTED = 50
FEWEST = 2  # neurons per class to learn from


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief:
    """Model of synapses and axons that are what their label says."""

    calibrate: Calibrator
    model: AxonModel
    left_out: int = 0  # validation neurons


def learn(val: Scored) -> Belief:
    """Fit on validation, and twice again without the neurons that the last fit doubts.

    First without all of which it has any doubt, then without those that it would list: a
    reweighted trimmed fit (Rousseeuw 1984), which a few wrong neurons cannot spoil.
    """
    belief = _fit(val)
    truth = strata_of(val.labels, val.groups, val.num_groups)
    for mixed_at, sure in ((0.0, 0.0), (MIXED_AT, SURE)):
        mixture, posteriors = judge(belief, val, but_one=False)
        other = (posteriors.argmax(axis=1) != truth) & (posteriors.max(axis=1) >= sure)
        kept = (mixture <= mixed_at) & ~other
        if np.bincount(truth[kept], minlength=val.probabilities.shape[1]).min() >= FEWEST:
            left_out = int((~kept).sum())
            belief = replace(_fit(subset(val, kept[val.groups])), left_out=left_out)
    return belief


def _fit(val: Scored) -> Belief:
    method = choose(val.labels, val.probabilities, val.groups)
    calibrate = fit(method, val.labels, val.probabilities)
    model = fit_axon_model(replace(val, probabilities=calibrate(val.probabilities)))
    return Belief(calibrate=calibrate, model=model)


def judge(belief: Belief, scored: Scored, *, but_one: bool) -> tuple[Floats, Floats]:
    """Return each neuron's mixture score (m,) and class probabilities (m, k).

    `but_one` scores the mixture without the synapse that speaks most against the rest.
    """
    groups, m = scored.groups, scored.num_groups
    evidence = evidence_of(belief.model, belief.calibrate(scored.probabilities))
    sums = group_sums(evidence, groups, m)
    posteriors = posterior(belief.model, sums, np.bincount(groups, minlength=m))
    rows = np.arange(len(groups))
    if but_one:
        own = evidence[rows, sums.argmax(axis=1)[groups]]
        order = np.lexsort((own - evidence.mean(axis=1), groups))
        rows = np.delete(order, np.unique(groups[order], return_index=True)[1])
    return mixture_scores(belief.model, evidence[rows], groups[rows], m), posteriors


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


def mixed_neurons(belief: Belief, scored: Scored, neuron_ids: Ints) -> list[MixedNeuron]:
    """Return neurons that two classes explain better than one, likeliest merge errors first.

    They must do so even without a neuron's oddest synapse: one alone is an odd synapse.
    """
    mixture, _ = judge(belief, scored, but_one=True)
    counts = np.bincount(scored.groups, minlength=scored.num_groups)
    onehot = np.eye(scored.probabilities.shape[1])[scored.predicted]
    votes = group_sums(onehot, scored.groups, scored.num_groups)
    found = np.flatnonzero((mixture > MIXED_AT) & (counts >= SYNAPSES_AT_LEAST))
    return [
        MixedNeuron(
            neuron_id=int(neuron_ids[j]),
            synapses=int(counts[j]),
            votes=tuple(int(v) for v in votes[j]),
            log_ratio=round(float(mixture[j]), 2),
        )
        for j in found[np.argsort(-mixture[found], kind="stable")]
    ]


def mislabelled_neurons(
    belief: Belief, scored: Scored, neuron_ids: Ints
) -> list[MislabelledNeuron]:
    """Return neurons whose synapses are sure of another class than their label, surest first.

    Mixed neurons, whose synapses are of two classes, are none of these.
    """
    mixture, posteriors = judge(belief, scored, but_one=True)
    truth = strata_of(scored.labels, scored.groups, scored.num_groups)
    guess, sure = posteriors.argmax(axis=1), posteriors.max(axis=1)
    counts = np.bincount(scored.groups, minlength=scored.num_groups)
    at_odds = (guess != truth) & (sure >= SURE) & (mixture <= MIXED_AT)
    found = np.flatnonzero(at_odds & (counts >= SYNAPSES_AT_LEAST))
    return [
        MislabelledNeuron(
            neuron_id=int(neuron_ids[j]),
            synapses=int(counts[j]),
            label=int(truth[j]),
            consensus=int(guess[j]),
            posterior=float(sure[j]),
        )
        for j in found[np.argsort(-sure[found], kind="stable")]
    ]


def odd_synapses(belief: Belief, scored: Scored) -> Ints:
    """Return rows of synapses at odds with their neuron, which is sure without them; worst first.

    Possible label or detection errors. The synapses of mixed neurons are none of these.
    """
    model, calibrated = belief.model, belief.calibrate(scored.probabilities)
    evidence = evidence_of(model, calibrated)
    sums = group_sums(evidence, scored.groups, scored.num_groups)
    counts = np.bincount(scored.groups, minlength=scored.num_groups)
    mixture, posteriors = judge(belief, scored, but_one=True)
    best, pure = posteriors.argmax(axis=1), mixture <= MIXED_AT
    own = np.take_along_axis(calibrated, best[scored.groups][:, None], axis=1)[:, 0]
    looked_at = (counts > SYNAPSES_AT_LEAST) & pure
    rows = np.flatnonzero((own <= AGAINST) & looked_at[scored.groups])
    axon = scored.groups[rows]
    without = posterior(model, sums[axon] - evidence[rows], counts[axon] - 1)
    sure = without[np.arange(len(rows)), best[axon]] >= SURE
    rows = rows[sure]
    ordered: Ints = rows[np.argsort(own[rows], kind="stable")]
    return ordered


def describe(frame: pd.DataFrame, rows: Ints, calibrated: Floats) -> tuple[OddSynapse, ...]:
    """Return identity, place and calibrated P(class) of rows, at most `LISTED`."""
    return tuple(
        OddSynapse(
            synapse_id=_id(frame, "synapse_id", row),
            key=str(frame["key"].iloc[row]) if "key" in frame else None,
            neuron_id=_id(frame, "neuron_id", row) or _id(frame, "pre_root_id", row) or 0,
            place_nm=place_of(frame, int(row)),
            label=int(frame["label"].iloc[row]),
            probabilities=tuple(calibrated[row].tolist()),
        )
        for row in rows[:LISTED]
    )


def _id(frame: pd.DataFrame, name: str, row: int) -> int | None:
    """Return an id, None where it is unknown."""
    return (int(frame[name].iloc[row]) or None) if name in frame else None


def place_of(frame: pd.DataFrame, row: int) -> tuple[float, float, float] | None:
    """Return a row's place in x, y, z nm, None where it is unknown."""
    if any(name not in frame for name in CENTERS):
        return None
    x, y, z = (float(frame[name].iloc[row]) for name in CENTERS)
    return (x, y, z) if np.isfinite([x, y, z]).all() else None
