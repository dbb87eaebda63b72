"""The threshold τ of two classes: swept on validation, applied to test."""

from dataclasses import dataclass

import numpy as np

from eval.inputs.predictions import Floats, Ints
from eval.metrics.metrics import SUM_METRICS, Sums

HALF = 0.5
CRITERIA = ("balanced_accuracy", "accuracy", "f1", "mcc")
CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """The best threshold, its value of the criterion, and the curve (t,) that it is the top of."""

    tau: float
    value: float
    taus: Floats
    values: Floats


def sweep(labels: Ints, scores: Floats, criterion: str = "balanced_accuracy") -> Sweep:
    """Return the threshold on P(class 1) that maximizes a criterion; class 1 is at or above it.

    Tried are 0.5 and the middle between every two neighbouring scores. Of equally good ones the
    nearest to 0.5 is taken, then the lower.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    distinct = np.unique(scores)
    low, high = distinct[:-1], distinct[1:]
    middle = (low + high) / 2.0
    taus = np.unique(np.append(np.where(middle > low, middle, high), HALF))
    values = _criterion_at(taus, labels, scores, criterion)
    best = np.flatnonzero(values >= values.max() - 1e-12)
    top = best[np.argmin(np.abs(taus[best] - HALF))]
    shown = np.unique(np.append(np.linspace(0, len(taus) - 1, CURVE_POINTS).astype(np.int64), top))
    return Sweep(
        tau=float(taus[top]), value=float(values[top]), taus=taus[shown], values=values[shown]
    )


def _criterion_at(taus: Floats, labels: Ints, scores: Floats, criterion: str) -> Floats:
    """Return the criterion (t,) at rising thresholds, from the classes' sorted scores."""
    below = np.stack(
        [np.searchsorted(np.sort(scores[labels == c]), taus, side="left") for c in (0, 1)], axis=-1
    )
    totals = np.bincount(labels, minlength=2)
    counts = np.stack([below, totals - below], axis=-1).astype(np.float64)
    empty = np.zeros((len(taus), 0))
    return SUM_METRICS[criterion](Sums(counts=counts, losses=empty, bins=empty))
