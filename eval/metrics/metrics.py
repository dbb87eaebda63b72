"""Scores of one set of predictions, for two or more classes.

n samples, k classes, m neurons; labels (n,) are positions in the class names, probabilities are
(n, k). Every score but AUROC and average precision is a function of sums over neurons (`Sums`), so
that a bootstrap only adds sums up again; leading axes are replicates. scikit-learn is the oracle of
the tests.

With two classes, precision, recall and F1 are of class 1 and a threshold decides; with more they
are means over classes, AUROC and average precision are means of one class against the rest, and
the most probable class is predicted. Classes without a sample are left out of means of recalls.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ECE_BINS = 15
SMALLEST = float(np.finfo(np.float64).eps)  # log loss clips here, as scikit-learn does


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Sums over samples, one row per neuron or replicate."""

    counts: Floats  # (m, k, k) true class by predicted class
    losses: Floats  # (m, 2) log loss, Brier score
    bins: Floats  # (m, ECE_BINS, 3) samples, confidence, hits

    def weighted(self, weights: Floats) -> "Sums":
        """Return the sums (b, ...) of replicates that take neuron j weights[b, j] times."""
        return Sums(
            **{
                name: (weights @ value.reshape(len(value), -1)).reshape(-1, *value.shape[1:])
                for name, value in (
                    ("counts", self.counts),
                    ("losses", self.losses),
                    ("bins", self.bins),
                )
            }
        )


def predict(probabilities: Floats, tau: float | None) -> Ints:
    """Return predicted classes (n,): class 1 at or above `tau`, or without it the most probable."""
    if tau is None:
        return np.asarray(probabilities.argmax(axis=1), np.int64)
    return np.asarray(probabilities[:, 1] >= tau, np.int64)


def confusion(labels: npt.ArrayLike, predicted: npt.ArrayLike, num_classes: int) -> Ints:
    """Return counts (k, k): true class by predicted class."""
    pairs = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.astype(np.int64).reshape(num_classes, num_classes)


def balanced_accuracy(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Return the mean recall over the classes that occur in `labels`; both (n,) of codes >= 0."""
    num_classes = int(max(np.max(labels), np.max(predicted))) + 1
    return float(balanced_accuracy_of(confusion(labels, predicted, num_classes)))


def sums_of(
    labels: Ints, probabilities: Floats, predicted: Ints, groups: Ints, num_groups: int
) -> Sums:
    """Return the sums of each group; `groups` (n,) gives the row that a sample adds to."""
    k = probabilities.shape[1]

    def add(cells: Ints, per_group: int, weights: Floats | None = None) -> Floats:
        return np.bincount(cells, weights, minlength=num_groups * per_group).astype(np.float64)

    own = probabilities[np.arange(len(labels)), labels]
    confidence, hits = confidence_and_hits(labels, probabilities)
    cells = groups * ECE_BINS + np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    losses = [add(groups, 1, _log_loss(own)), add(groups, 1, _brier(labels, probabilities))]
    bins = [add(cells, ECE_BINS), add(cells, ECE_BINS, confidence), add(cells, ECE_BINS, hits)]
    return Sums(
        counts=add(groups * k * k + labels * k + predicted, k * k).reshape(num_groups, k, k),
        losses=np.stack(losses, axis=-1),
        bins=np.stack(bins, axis=-1).reshape(num_groups, ECE_BINS, 3),
    )


def confidence_and_hits(labels: Ints, probabilities: Floats) -> tuple[Floats, Floats]:
    """Return what a reliability diagram compares, both (n,).

    Two classes: P(class 1) and whether it was (Naeini et al. 2015); more: the highest probability
    and whether its class was right (Guo et al. 2017).
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], (labels == 1).astype(np.float64)
    top = probabilities.argmax(axis=1)
    return probabilities.max(axis=1), (top == labels).astype(np.float64)


def _log_loss(own: Floats) -> Floats:
    return -np.log(np.clip(own, SMALLEST, 1.0 - SMALLEST))


def _brier(labels: Ints, probabilities: Floats) -> Floats:
    """Two classes: squared error of P(class 1); more: summed over classes (Brier 1950)."""
    if probabilities.shape[1] == 2:
        return np.asarray((probabilities[:, 1] - labels) ** 2)
    own = probabilities[np.arange(len(labels)), labels]
    return np.asarray((probabilities**2).sum(axis=1) - 2.0 * own + 1.0)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Divide, with 0 where there is nothing to divide by (scikit-learn's zero_division=0)."""
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom != 0)


def recalls(counts: Floats) -> Floats:
    """Return recall by class (..., k) of confusion matrices (..., k, k)."""
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def precisions(counts: Floats) -> Floats:
    """Return precision by class (..., k) of confusion matrices (..., k, k)."""
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-2))


def balanced_accuracy_of(counts: npt.NDArray[np.number]) -> Floats:
    """Return the mean recall over the classes that occur, (...,) of counts (..., k, k)."""
    values = counts.astype(np.float64)
    occurs = values.sum(axis=-1) > 0
    return _ratio(recalls(values).sum(axis=-1), occurs.sum(axis=-1).astype(np.float64))


def _accuracy(sums: Sums) -> Floats:
    return _ratio(np.trace(sums.counts, axis1=-2, axis2=-1), sums.counts.sum(axis=(-2, -1)))


def _f1(sums: Sums) -> Floats:
    top = 2.0 * np.diagonal(sums.counts, axis1=-2, axis2=-1)
    values = _ratio(top, sums.counts.sum(axis=-1) + sums.counts.sum(axis=-2))
    return _class_or_mean(values)


def _class_or_mean(values: Floats) -> Floats:
    return values[..., 1] if values.shape[-1] == 2 else np.asarray(values.mean(axis=-1))


def _mcc(sums: Sums) -> Floats:
    """Matthews correlation, for k classes by Gorodkin (2004)."""
    true, guessed = sums.counts.sum(axis=-1), sums.counts.sum(axis=-2)
    total = sums.counts.sum(axis=(-2, -1))
    top = np.trace(sums.counts, axis1=-2, axis2=-1) * total - (true * guessed).sum(axis=-1)
    spread = (total**2 - (true**2).sum(axis=-1)) * (total**2 - (guessed**2).sum(axis=-1))
    return _ratio(top, np.sqrt(spread))


def _mean_loss(sums: Sums, which: int) -> Floats:
    return _ratio(sums.losses[..., which], sums.counts.sum(axis=(-2, -1)))


def _ece(sums: Sums) -> Floats:
    gap = np.abs(sums.bins[..., 1] - sums.bins[..., 2]).sum(axis=-1)
    return _ratio(gap, sums.bins[..., 0].sum(axis=-1))


SUM_METRICS: dict[str, Callable[[Sums], Floats]] = {
    "balanced_accuracy": lambda sums: balanced_accuracy_of(sums.counts),
    "accuracy": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
    "precision": lambda sums: _class_or_mean(precisions(sums.counts)),
    "recall": lambda sums: _class_or_mean(recalls(sums.counts)),
    "log_loss": lambda sums: _mean_loss(sums, 0),
    "brier": lambda sums: _mean_loss(sums, 1),
    "ece": _ece,
}
LOWER_IS_BETTER = ("log_loss", "brier", "ece")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Scores of one class, ranked: `place` (n,) is a score's position among `num` distinct ones."""

    label: int
    place: Ints
    num: int

    def histogram(self, labels: Ints) -> Floats:
        """Return counts (2, num) of negatives and positives, scores rising."""
        cells = (labels == self.label) * self.num + self.place
        return np.bincount(cells, minlength=2 * self.num).reshape(2, -1).astype(np.float64)


def rankings(probabilities: Floats) -> list[Ranking]:
    """Rank P(class 1) of two classes, or each class against the rest of more."""
    classes = [1] if probabilities.shape[1] == 2 else list(range(probabilities.shape[1]))
    return [_rank(label, probabilities[:, label]) for label in classes]


def _rank(label: int, scores: Floats) -> Ranking:
    order = np.argsort(scores, kind="stable")
    rises = np.concatenate([[False], np.diff(scores[order]) > 0.0])
    place = np.empty(len(scores), np.int64)
    place[order] = rises.cumsum()
    return Ranking(label=label, place=place, num=int(rises.sum()) + 1)


def auroc_of(histogram: Floats) -> Floats:
    """Return AUROC (...,) of counts (..., 2, bins) of negatives and positives, scores rising."""
    negatives, positives = histogram[..., 0, :], histogram[..., 1, :]
    below = negatives.cumsum(axis=-1) - negatives / 2.0
    total = negatives.sum(axis=-1) * positives.sum(axis=-1)
    return _ratio((positives * below).sum(axis=-1), total)


def average_precision_of(histogram: Floats) -> Floats:
    """Return average precision (...,) of counts (..., 2, bins), scores rising."""
    negatives, positives = histogram[..., 0, ::-1], histogram[..., 1, ::-1]
    true_positives = positives.cumsum(axis=-1)
    precision = _ratio(true_positives, true_positives + negatives.cumsum(axis=-1))
    return _ratio((precision * positives).sum(axis=-1), positives.sum(axis=-1))


RANK_METRICS = {"auroc": auroc_of, "average_precision": average_precision_of}


def rank_scores(labels: Ints, ranked: list[Ranking]) -> dict[str, float]:
    """Return AUROC and average precision, means over the rankings; every class must occur."""
    counts = [one.histogram(labels) for one in ranked]
    return {
        name: float(np.mean([metric(one) for one in counts]))
        for name, metric in RANK_METRICS.items()
    }
