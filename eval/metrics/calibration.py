"""Probabilities that mean what they say: fitted on validation, applied to test.

A calibrator maps probabilities (n, k) to probabilities (n, k). Temperature scaling is Guo et al.
(2017), Platt scaling uses Platt's (1999) smoothed targets, isotonic regression is kept inside
[1 / (n + 2), 1 - 1 / (n + 2)] so that no outcome becomes impossible.
"""

from collections.abc import Callable

import numpy as np
from scipy import optimize, special
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from eval.inputs.predictions import Floats, Ints
from eval.metrics.metrics import SMALLEST

Calibrator = Callable[[Floats], Floats]
FOLDS = 5
FIT_ROWS = 100_000  # more change nothing that could be seen


def _log(probabilities: Floats) -> Floats:
    return np.asarray(np.log(np.clip(probabilities, SMALLEST, 1.0)))


def _logit(probabilities: Floats) -> Floats:
    return np.asarray(special.logit(np.clip(probabilities[:, 1], 1e-7, 1.0 - 1e-7)))


def _two(ones: Floats) -> Floats:
    return np.stack([1.0 - ones, ones], axis=1)


def fit_none(labels: Ints, probabilities: Floats) -> Calibrator:
    """Return the identity."""
    assert len(labels) == len(probabilities)
    return lambda values: values


def fit_temperature(labels: Ints, probabilities: Floats) -> Calibrator:
    """Return softmax(log p / T) with the T in [1/20, 20] of least log loss."""
    logs, rows = _log(probabilities), np.arange(len(labels))

    def loss(log_t: float) -> float:
        return -float(special.log_softmax(logs / np.exp(log_t), axis=1)[rows, labels].mean())

    limit = float(np.log(20.0))
    found = float(optimize.minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x)
    return lambda values: np.asarray(special.softmax(_log(values) / np.exp(found), axis=1))


def fit_platt(labels: Ints, probabilities: Floats) -> Calibrator:
    """Return a logistic regression on the logit of P(class 1); two classes only."""
    positive = int(labels.sum())
    target = np.where(
        labels == 1, (positive + 1.0) / (positive + 2.0), 1.0 / (len(labels) - positive + 2.0)
    )
    x = np.tile(_logit(probabilities), 2)[:, None]
    y = np.repeat([1, 0], len(labels))
    model = LogisticRegression(C=1e6).fit(x, y, sample_weight=np.append(target, 1.0 - target))
    return lambda values: np.asarray(model.predict_proba(_logit(values)[:, None]))


def fit_isotonic(labels: Ints, probabilities: Floats) -> Calibrator:
    """Return a rising step function of P(class 1); two classes only."""
    edge = 1.0 / (len(labels) + 2.0)
    model = IsotonicRegression(y_min=edge, y_max=1.0 - edge, out_of_bounds="clip")
    model.fit(probabilities[:, 1], labels)
    return lambda values: _two(model.predict(values[:, 1]))


CALIBRATORS = {
    "none": fit_none,
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def methods_for(num_classes: int) -> tuple[str, ...]:
    """Return the names of the calibrators that this number of classes has."""
    return tuple(CALIBRATORS) if num_classes == 2 else ("none", "temperature")


def fit(method: str, labels: Ints, probabilities: Floats) -> Calibrator:
    """Fit a method of `CALIBRATORS` on at most `FIT_ROWS` evenly spread rows."""
    rows = np.linspace(0, len(labels) - 1, min(len(labels), FIT_ROWS)).astype(np.int64)
    return CALIBRATORS[method](labels[rows], probabilities[rows])


def choose(labels: Ints, probabilities: Floats, groups: Ints) -> str:
    """Return the method of least log loss on validation neurons that it was not fitted on."""
    num_folds = min(FOLDS, len(np.unique(groups)))
    if num_folds < 2:
        return "temperature"
    rows = np.linspace(0, len(labels) - 1, min(len(labels), FIT_ROWS)).astype(np.int64)
    labels, probabilities, groups = labels[rows], probabilities[rows], groups[rows]
    methods = methods_for(probabilities.shape[1])
    loss = dict.fromkeys(methods, 0.0)
    for fitted, held in GroupKFold(num_folds).split(labels, groups=groups):
        if len(np.unique(labels[fitted])) < probabilities.shape[1]:
            continue
        for method in methods:
            values = CALIBRATORS[method](labels[fitted], probabilities[fitted])(probabilities[held])
            loss[method] -= float(_log(values)[np.arange(len(held)), labels[held]].sum())
    return min(methods, key=lambda method: loss[method])
