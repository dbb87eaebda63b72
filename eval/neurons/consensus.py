"""From synapses to neurons: one presynaptic neuron has one class, so its synapses vote.

n synapses, m neurons, k classes. Synapses of one axon err together, so multiplying their
probabilities is too sure. With correlation ρ of the evidence within an axon, n synapses are worth
n / (1 + (n - 1) ρ) independent ones (Kish's design effect), and the posterior of a neuron is
    log P(c | axon) = log prior_c + n_eff · mean_i(log p_ic - log rate_c) + constant
with p calibrated, rate the classes' share of synapses, prior their share of neurons and ρ the
intraclass correlation (one-way ANOVA, neurons within classes): all of them from validation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from eval.inputs.predictions import Floats, Ints
from eval.metrics.bootstrap import SEED, Scored, strata_of
from eval.metrics.metrics import confusion
from eval.results import FromSynapses

SMALLEST_P = 1e-4  # no single synapse may decide more than that
TARGETS = (0.95, 0.99)
STEPS = (1, 2, 3, 5, 8, 12, 20, 30, 50, 100)
REPEATS = 20
MOST_SYNAPSES = 400_000  # the curve over number of synapses uses the neurons that fit in this


@dataclass(frozen=True, kw_only=True, slots=True)
class AxonModel:
    """Model of axons, learned from validation."""

    correlation: float  # ρ
    log_rate: Floats  # (k,)
    log_prior: Floats  # (k,)
    measured: bool = True  # true if ρ is; else an axon counts as one synapse


def group_sums(values: Floats, groups: Ints, num_groups: int) -> Floats:
    """Return the sums (m, k) of values (n, k) by group."""
    columns = [np.bincount(groups, column, minlength=num_groups) for column in values.T]
    return np.stack(columns, axis=1)


def fit_axon_model(val: Scored) -> AxonModel:
    """Fit on calibrated validation predictions."""
    k = val.probabilities.shape[1]
    own = strata_of(val.labels, val.groups, val.num_groups)
    rate = (np.bincount(val.labels, minlength=k) + 1.0) / (len(val.labels) + k)
    prior = (np.bincount(own, minlength=k) + 1.0) / (val.num_groups + k)
    evidence = np.log(np.clip(val.probabilities, SMALLEST_P, 1.0)) - np.log(rate)
    correlation = intraclass_correlation(evidence, val.groups, own[val.groups])
    return AxonModel(
        correlation=1.0 if correlation is None else correlation,
        log_rate=np.log(rate),
        log_prior=np.log(prior),
        measured=correlation is not None,
    )


def even_axon_model(num_classes: int) -> AxonModel:
    """Return what is held of axons where validation says nothing of them."""
    even = np.full(num_classes, -np.log(num_classes))
    return AxonModel(correlation=1.0, log_rate=even, log_prior=even, measured=False)


def intraclass_correlation(values: Floats, groups: Ints, classes: Ints) -> float | None:
    """Return the correlation in [0, 1] of rows (n, k) of one group, around their class's mean.

    None where there is nothing to estimate it from: no group of several rows, or no spread. ANOVA
    estimator for groups of unequal size (Donner 1986), groups nested in classes.
    """
    _, groups = np.unique(groups, return_inverse=True)
    _, classes = np.unique(classes, return_inverse=True)
    m, c = int(groups.max()) + 1, int(classes.max()) + 1
    if m <= c or len(values) <= m:
        return None
    values = values - values.mean(axis=1, keepdims=True)
    size, class_size = np.bincount(groups), np.bincount(classes)
    class_mean = group_sums(values, classes, c) / class_size[:, None]
    group_mean = group_sums(values, groups, m) / size[:, None]
    own = np.zeros(m, np.int64)
    own[groups] = classes
    between = float((size[:, None] * (group_mean - class_mean[own]) ** 2).sum()) / (m - c)
    within = float(((values - group_mean[groups]) ** 2).sum()) / (len(values) - m)
    typical = (len(values) - float((size**2 / class_size[own]).sum())) / (m - c)
    total = between + (typical - 1.0) * within
    return float(np.clip((between - within) / total, 0.0, 1.0)) if total > 0 else None


def evidence_of(model: AxonModel, probabilities: Floats) -> Floats:
    """Return log likelihoods (n, k), but for a constant per row, of calibrated probabilities."""
    return np.log(np.clip(probabilities, SMALLEST_P, 1.0)) - model.log_rate


def posterior(model: AxonModel, evidence_sums: Floats, counts: Ints) -> Floats:
    """Return class probabilities (m, k) of neurons with summed evidence of `counts` synapses."""
    worth = 1.0 / (1.0 + (np.maximum(counts, 1) - 1.0) * model.correlation)
    logs = model.log_prior + evidence_sums * worth[:, None]
    return np.asarray(special.softmax(logs, axis=1))


def consensus(scored: Scored, calibrated: Floats, model: AxonModel) -> dict[str, Floats]:
    """Return each method's class probabilities (m, k) of every neuron.

    majority: share of votes, a tie settled by the mean; mean_logit: mean logit against τ's;
    independent: synapses multiplied; correlated: the posterior of this module.
    """
    k, m = scored.probabilities.shape[1], scored.num_groups
    counts = np.bincount(scored.groups, minlength=m)
    votes = group_sums(np.eye(k)[scored.predicted], scored.groups, m) / counts[:, None]
    logs = _logs_against(scored.probabilities, scored.tau)
    mean_logit = special.softmax(group_sums(logs, scored.groups, m) / counts[:, None], axis=1)
    sums = group_sums(evidence_of(model, calibrated), scored.groups, m)
    return {
        "majority": (votes + 1e-6 * mean_logit) / (1.0 + 1e-6),
        "mean_logit": mean_logit,
        "independent": posterior(replace(model, correlation=0.0), sums, counts),
        "correlated": posterior(model, sums, counts),
    }


def _logs_against(probabilities: Floats, tau: float | None) -> Floats:
    """Return log probabilities (n, k), with `tau` moved so that it is even odds."""
    if tau is None:
        return np.asarray(np.log(np.clip(probabilities, SMALLEST_P, 1.0)))
    odds = log_odds_above(probabilities[:, 1], tau)
    reach = -float(special.logit(SMALLEST_P))
    return np.asarray(special.log_expit(np.stack([-odds, odds], axis=1).clip(-reach, reach)))


def log_odds_above(values: Floats, tau: float) -> Floats:
    """Return the log odds (n,) of probabilities less those of `tau`: infinite at 0 and at 1."""
    with np.errstate(invalid="ignore"):
        odds = special.logit(values) - special.logit(tau)
    return np.where(values == tau, 0.0, odds)


def as_neurons(scored: Scored, probabilities: Floats) -> Scored:
    """Return a problem of one row per neuron, so that neurons are scored as synapses are."""
    return Scored(
        labels=strata_of(scored.labels, scored.groups, scored.num_groups),
        probabilities=probabilities,
        groups=np.arange(scored.num_groups),
        num_groups=scored.num_groups,
        tau=None,
    )


def accuracy_by_synapses(
    scored: Scored, calibrated: Floats, model: AxonModel, *, seed: int = SEED
) -> tuple[FromSynapses, ...]:
    """Return the neurons' balanced accuracy from s synapses each, for the s of `STEPS`.

    It is the mean over `REPEATS` draws without replacement, of the neurons that have as many.
    """
    rng = np.random.default_rng(seed)
    k = calibrated.shape[1]
    truth = strata_of(scored.labels, scored.groups, scored.num_groups)
    counts = np.bincount(scored.groups, minlength=scored.num_groups)
    kept = (scored.groups < np.searchsorted(np.cumsum(counts), MOST_SYNAPSES) + 1).nonzero()[0]
    groups, evidence = scored.groups[kept], evidence_of(model, calibrated[kept])
    right: dict[int, list[float]] = {s: [] for s in STEPS if (counts >= s).any()}
    size = np.bincount(groups, minlength=scored.num_groups)
    first = np.cumsum(size) - size
    for _ in range(REPEATS if len(groups) < MOST_SYNAPSES // 4 else 5):
        order = np.lexsort((rng.random(len(groups)), groups))
        total = np.vstack([np.zeros((1, k)), evidence[order].cumsum(axis=0)])
        for s, values in right.items():
            own = np.flatnonzero(size >= s)
            sums = total[first[own] + s] - total[first[own]]
            guess = posterior(model, sums, np.full(len(own), s)).argmax(axis=1)
            matrix = confusion(truth[own], guess, k).astype(np.float64)
            occurs = matrix.sum(axis=1) > 0
            values.append(float((np.diag(matrix)[occurs] / matrix.sum(axis=1)[occurs]).mean()))
    return tuple(
        FromSynapses(
            synapses=s, neurons=int((size >= s).sum()), balanced_accuracy=float(np.mean(v))
        )
        for s, v in right.items()
    )


def synapses_needed(curve: Sequence[FromSynapses], target: float) -> int | None:
    """Return the fewest synapses from which on the curve stays at or above `target`, or None."""
    needed = None
    for row in reversed(curve):
        if row.balanced_accuracy < target:
            break
        needed = row.synapses
    return needed


def abstention(confidence: Floats, right: Floats, points: int = 100) -> tuple[Floats, Floats]:
    """Return coverage and accuracy (p,) when only the surest are decided, most to all of them."""
    order = np.argsort(-confidence, kind="stable")
    accuracy = right[order].cumsum() / np.arange(1, len(order) + 1)
    kept = np.unique(np.linspace(0, len(order) - 1, points).astype(np.int64))
    return (kept + 1.0) / len(order), accuracy[kept]


def coverage_at(confidence: Floats, right: Floats, target: float) -> float:
    """Return the largest share that can be decided at an accuracy of `target` or better."""
    order = np.argsort(-confidence, kind="stable")
    accuracy = right[order].cumsum() / np.arange(1, len(order) + 1)
    good = np.flatnonzero(accuracy >= target)
    return float(good[-1] + 1) / len(order) if len(good) else 0.0
