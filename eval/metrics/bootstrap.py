"""Intervals that respect that the synapses of one axon are not independent.

Neurons are drawn, not synapses: each replicate takes every neuron a whole number of times, within
strata (the neurons' majority class), and adds up the neurons' sums. The interval is the percentile
interval, widened for few neurons as by Hesterberg (2015, "What teachers should know about the
bootstrap", expanded percentile): drawing n of n understates the spread, and Student's t replaces
the normal. Very many neurons are drawn in random bundles, which have the same spread of sums.
b replicates, m neurons, k classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from eval.inputs.predictions import Floats, Ints
from eval.metrics.metrics import (
    RANK_METRICS,
    SUM_METRICS,
    Ranking,
    Sums,
    predict,
    rank_scores,
    rankings,
    sums_of,
)
from eval.results import Gap, Interval

LEVEL = 0.95
REPLICATES = 2000
SEED = 42
RANK_BINS = 1024  # scores of larger sets are ranked in this many equal parts
MOST_UNITS = 1000  # per stratum; its variance is then known to 4.5 %
NEURONS_AT_ONCE = 2048
WEIGHTS_AT_ONCE = 20_000_000
FEW_NEURONS = 10  # per class; below this an interval is flagged


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Labelled predictions ready to be scored."""

    labels: Ints  # (n,) every one a class
    probabilities: Floats  # (n, k)
    groups: Ints  # (n,) neuron 0 to m - 1
    num_groups: int
    tau: float | None  # None: the most probable class is predicted

    @property
    def predicted(self) -> Ints:
        """Predicted classes (n,)."""
        return predict(self.probabilities, self.tau)

    def sums(self) -> Sums:
        """The sums of every neuron."""
        parts = self.labels, self.probabilities, self.predicted, self.groups
        return sums_of(*parts, num_groups=self.num_groups)


def strata_of(labels: Ints, groups: Ints, num_groups: int) -> Ints:
    """Return the majority class (m,) of every neuron."""
    k = int(labels.max()) + 1
    counts = np.bincount(groups * k + labels, minlength=num_groups * k).reshape(-1, k)
    majority: Ints = counts.argmax(axis=1)
    return majority


def bundled(scored: Scored) -> Scored:
    """Return the same samples in `MOST_UNITS` bundles of neurons for each larger stratum."""
    strata = strata_of(scored.labels, scored.groups, scored.num_groups)
    sizes = np.bincount(strata)
    if sizes.max() <= MOST_UNITS:
        return scored
    rng = np.random.default_rng(SEED)
    units, first = np.zeros(scored.num_groups, np.int64), 0
    for stratum in np.flatnonzero(sizes):
        own = rng.permutation(np.flatnonzero(strata == stratum))
        units[own] = first + np.arange(len(own)) % MOST_UNITS
        first += min(len(own), MOST_UNITS)
    return replace(scored, groups=units[scored.groups], num_groups=first)


def draw(strata: Ints, num: int, *, seed: int = SEED) -> Iterator[Floats]:
    """Yield weights (b, m) of `num` replicates in all, each stratum drawn to its own size.

    The same arguments give the same weights, so two runs over the same neurons are paired.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    at_once = max(1, WEIGHTS_AT_ONCE // len(strata))
    for start in range(0, num, at_once):
        weights = np.zeros((min(at_once, num - start), len(strata)))
        for own in members:
            drawn = rng.integers(len(own), size=(len(weights), len(own)))
            cells = drawn + np.arange(len(weights))[:, None] * len(own)
            counts = np.bincount(cells.ravel(), minlength=len(weights) * len(own))
            weights[:, own] = counts.reshape(len(weights), len(own))
        yield weights


def interval(value: float, replicates: Floats, strata: Ints) -> Interval:
    """Return the expanded percentile interval at `LEVEL`; none where a stratum has one neuron.

    A perfect score cannot vary: its lower end is the share of faultless neurons at which seeing
    only such has a chance of 2.5 % (Clopper and Pearson 1934).
    """
    sizes = np.unique(strata, return_counts=True)[1]
    smallest = int(sizes.min())
    if smallest < 2:
        return Interval(value=value)
    if value == 1.0 and float(np.min(replicates)) == 1.0:
        low = (0.5 - LEVEL / 2.0) ** (1.0 / len(strata))
        return Interval(value=value, low=float(low), high=1.0)
    freedom = int(sizes.sum()) - len(sizes)
    reach = stats.t.ppf(0.5 + LEVEL / 2.0, freedom) * np.sqrt(smallest / (smallest - 1.0))
    tail = float(stats.norm.cdf(-reach))
    low, high = np.quantile(replicates, [tail, 1.0 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def bootstrap_sums(
    sums: Sums, strata: Ints, metrics: tuple[str, ...] = tuple(SUM_METRICS), num: int = REPLICATES
) -> dict[str, Floats]:
    """Return replicates (num,) of every metric that neurons' sums determine."""
    parts: dict[str, list[Floats]] = {name: [] for name in metrics}
    for weights in draw(strata, num):
        drawn = sums.weighted(weights)
        for name in metrics:
            parts[name].append(SUM_METRICS[name](drawn))
    return {name: np.concatenate(values) for name, values in parts.items()}


def bootstrap_ranks(
    scored: Scored, ranked: list[Ranking], strata: Ints, num: int = REPLICATES
) -> dict[str, Floats]:
    """Return replicates (num,) of auroc and average_precision, exact up to `RANK_BINS` scores."""
    found: dict[str, list[Floats]] = {name: [] for name in RANK_METRICS}
    order = np.argsort(scored.groups, kind="stable")
    for ranking in ranked:
        bins, num_bins = _rank_bins(ranking)
        cells = ((scored.labels == ranking.label) * num_bins + bins)[order]
        weights = draw(strata, num)
        histogram = _drawn_histogram(weights, scored.groups[order], cells, 2 * num_bins)
        for name, metric in RANK_METRICS.items():
            found[name].append(metric(histogram))
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def _rank_bins(ranking: Ranking) -> tuple[Ints, int]:
    """Return the bin (n,) of every score, rising with it, and the number of bins."""
    if ranking.num <= RANK_BINS:
        return ranking.place, ranking.num
    counts = np.bincount(ranking.place)
    below = counts.cumsum() - counts
    return (below * RANK_BINS // len(ranking.place))[ranking.place], RANK_BINS


def _drawn_histogram(draws: Iterator[Floats], groups: Ints, cells: Ints, width: int) -> Floats:
    """Add neurons' histograms up for each replicate: (b, 2, width / 2); `groups` must rise."""
    result = []
    for weights in draws:
        total = np.zeros((len(weights), width))
        for first in range(0, weights.shape[1], NEURONS_AT_ONCE):
            own = weights[:, first : first + NEURONS_AT_ONCE]
            start, stop = np.searchsorted(groups, [first, first + own.shape[1]])
            flat = (groups[start:stop] - first) * width + cells[start:stop]
            counts = np.bincount(flat, minlength=own.shape[1] * width)
            total += own @ counts.reshape(own.shape[1], width).astype(np.float64)
        result.append(total.reshape(len(weights), 2, -1))
    return np.concatenate(result)


def score(scored: Scored, *, ranks: bool = True, num: int = REPLICATES) -> dict[str, Interval]:
    """Return every metric with its neuron-bootstrap interval."""
    scored = bundled(scored)
    strata = strata_of(scored.labels, scored.groups, scored.num_groups)
    sums = scored.sums()
    replicates = bootstrap_sums(sums, strata, num=num)
    whole = Sums(counts=sums.counts.sum(0), losses=sums.losses.sum(0), bins=sums.bins.sum(0))
    values = {name: float(metric(whole)) for name, metric in SUM_METRICS.items()}
    if ranks and len(np.unique(scored.labels)) == scored.probabilities.shape[1]:
        ranked = rankings(scored.probabilities)
        values |= rank_scores(scored.labels, ranked)
        replicates |= bootstrap_ranks(scored, ranked, strata, num)
    # A finite sample's calibration error is biased upwards, a resample's twice as much.
    replicates["ece"] = np.maximum(replicates["ece"] + values["ece"] - replicates["ece"].mean(), 0)
    return {name: interval(value, replicates[name], strata) for name, value in values.items()}


def difference(
    first: Scored, second: Scored, metric: str = "balanced_accuracy", num: int = REPLICATES
) -> Gap:
    """Return second - first of a metric over the same neurons, with interval and p value.

    The p value is of a two-sided permutation test that swaps the two predictions of whole
    neurons (Pitman's sign-flip with neurons as units); None for metrics that rank.
    """
    first, second = bundled(first), bundled(second)
    strata = strata_of(first.labels, first.groups, first.num_groups)
    if metric not in SUM_METRICS:
        ranked = [rankings(run.probabilities) for run in (first, second)]
        values = [rank_scores(first.labels, one)[metric] for one in ranked]
        a, b = (bootstrap_ranks(first, one, strata, num)[metric] for one in ranked)
        return _gap(interval(values[1] - values[0], b - a, strata), None)
    sums = [first.sums(), second.sums()]
    a, b = (bootstrap_sums(one, strata, (metric,), num)[metric] for one in sums)
    ones = np.ones((1, first.num_groups))
    whole = [float(SUM_METRICS[metric](one.weighted(ones))[0]) for one in sums]
    observed = whole[1] - whole[0]
    p_value = _swap_test(sums[0], sums[1], metric, observed, num)
    return _gap(interval(observed, b - a, strata), p_value)


def _gap(value: Interval, p_value: float | None) -> Gap:
    return Gap(value=value.value, low=value.low, high=value.high, p_value=p_value)


def _swap_test(first: Sums, second: Sums, metric: str, observed: float, num: int) -> float:
    rng = np.random.default_rng(SEED)
    num_groups, beyond = len(first.counts), 0
    at_once = max(1, WEIGHTS_AT_ONCE // num_groups)
    for start in range(0, num, at_once):
        kept = rng.integers(0, 2, (min(at_once, num - start), num_groups)).astype(np.float64)
        mixed = [
            _add(first.weighted(part), second.weighted(1.0 - part)) for part in (kept, 1.0 - kept)
        ]
        gaps = SUM_METRICS[metric](mixed[1]) - SUM_METRICS[metric](mixed[0])
        beyond += int((np.abs(gaps) >= abs(observed) - 1e-12).sum())
    return (beyond + 1) / (num + 1)


def _add(first: Sums, second: Sums) -> Sums:
    return Sums(
        counts=first.counts + second.counts,
        losses=first.losses + second.losses,
        bins=first.bins + second.bins,
    )
