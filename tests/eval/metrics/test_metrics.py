"""Every score equals scikit-learn's, or a formula written out, on random input."""

import numpy as np
import pytest
from sklearn import metrics as sk

from eval.inputs.predictions import Floats, Ints
from eval.metrics.metrics import (
    ECE_BINS,
    SUM_METRICS,
    Sums,
    auroc_of,
    average_precision_of,
    balanced_accuracy,
    confusion,
    precisions,
    predict,
    rank_scores,
    rankings,
    recalls,
    sums_of,
)


def random_problem(seed: int, k: int, n: int = 500) -> tuple[Ints, Floats]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, n, p=rng.dirichlet(np.full(k, 3.0)))
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    values = np.exp(logits)
    return labels, np.round(values / values.sum(axis=1, keepdims=True), 3 if k == 2 else 15)


def problems() -> list[tuple[Ints, Floats]]:
    return [random_problem(seed, k) for seed in range(4) for k in (2, 3, 5)]


def score(labels: Ints, probabilities: Floats, tau: float | None) -> dict[str, float]:
    predicted = predict(probabilities, tau)
    sums = sums_of(labels, probabilities, predicted, np.zeros_like(labels), 1)
    return {name: float(metric(sums)[0]) for name, metric in SUM_METRICS.items()}


@pytest.mark.parametrize(("labels", "probabilities"), problems())
def test_scores_equal_scikit_learns(labels: Ints, probabilities: Floats) -> None:
    two = probabilities.shape[1] == 2
    if two:
        probabilities = np.stack([1 - probabilities[:, 1], probabilities[:, 1]], axis=1)
    tau = 0.37 if two else None
    predicted = predict(probabilities, tau)
    found = score(labels, probabilities, tau)
    average = "binary" if two else "macro"
    options = {"average": average, "zero_division": 0}
    brier = (
        sk.brier_score_loss(labels, probabilities[:, 1])
        if two
        else ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1).mean()
    )
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, **options),
        "precision": sk.precision_score(labels, predicted, **options),
        "recall": sk.recall_score(labels, predicted, **options),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "log_loss": sk.log_loss(labels, probabilities),
        "brier": brier,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert balanced_accuracy(labels, predicted) == pytest.approx(expected["balanced_accuracy"])
    ranks = rank_scores(labels, rankings(probabilities))
    if two:
        assert ranks["auroc"] == pytest.approx(sk.roc_auc_score(labels, probabilities[:, 1]))
        precision = sk.average_precision_score(labels, probabilities[:, 1])
        assert ranks["average_precision"] == pytest.approx(precision)
    else:
        ovr = sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
        assert ranks["auroc"] == pytest.approx(ovr)
        each = sk.average_precision_score(np.eye(probabilities.shape[1])[labels], probabilities)
        assert ranks["average_precision"] == pytest.approx(each)


@pytest.mark.parametrize(("labels", "probabilities"), problems())
def test_calibration_error_is_the_published_formula(labels: Ints, probabilities: Floats) -> None:
    if probabilities.shape[1] == 2:
        said, hit = probabilities[:, 1], labels == 1
    else:
        said, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for b in range(ECE_BINS):
        low, high = b / ECE_BINS, (b + 1) / ECE_BINS
        own = (said >= low) & ((said < high) | (b == ECE_BINS - 1))
        if own.any():
            total += own.mean() * abs(said[own].mean() - hit[own].mean())
    assert score(labels, probabilities, None)["ece"] == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("labels", "probabilities"), problems())
def test_confusion_and_its_margins(labels: Ints, probabilities: Floats) -> None:
    k, predicted = probabilities.shape[1], predict(probabilities, None)
    counts = confusion(labels, predicted, k)
    np.testing.assert_array_equal(counts, sk.confusion_matrix(labels, predicted, labels=range(k)))
    each = sk.precision_recall_fscore_support(labels, predicted, labels=range(k), zero_division=0)
    np.testing.assert_allclose(precisions(counts.astype(float)), each[0])
    np.testing.assert_allclose(recalls(counts.astype(float)), each[1])


def test_ranking_from_counts_equals_ranking_of_scores() -> None:
    labels, probabilities = random_problem(7, 2)
    scores = np.round(probabilities[:, 1], 2)  # many ties
    values, bins = np.unique(scores, return_inverse=True)
    weights = np.random.default_rng(0).integers(0, 4, len(labels))
    histogram = np.stack(
        [np.bincount(bins, weights * (labels == c), minlength=len(values)) for c in (0, 1)]
    )
    expected = sk.roc_auc_score(labels, scores, sample_weight=weights)
    assert float(auroc_of(histogram)) == pytest.approx(expected)
    expected = sk.average_precision_score(labels, scores, sample_weight=weights)
    assert float(average_precision_of(histogram)) == pytest.approx(expected)


def test_a_class_that_does_not_occur_is_left_out() -> None:
    assert balanced_accuracy([1, 1, 1, 1], [1, 1, 1, 0]) == 0.75
    assert balanced_accuracy([0, 2], [0, 1]) == 0.5


def test_sums_of_replicates_are_sums_of_repeated_samples() -> None:
    labels, probabilities = random_problem(3, 3)
    groups = np.random.default_rng(1).integers(0, 20, len(labels))
    predicted = predict(probabilities, None)
    weights = np.random.default_rng(2).integers(0, 4, (5, 20))
    drawn = sums_of(labels, probabilities, predicted, groups, 20).weighted(weights.astype(float))
    for row, weight in enumerate(weights):
        rows = np.repeat(np.arange(len(labels)), weight[groups])
        zeros = np.zeros(len(rows), np.int64)
        whole = sums_of(labels[rows], probabilities[rows], predicted[rows], zeros, 1)
        for name in Sums.__slots__:
            np.testing.assert_allclose(getattr(drawn, name)[row], getattr(whole, name)[0])


def test_predict_takes_class_1_at_the_threshold() -> None:
    probabilities = np.array([[0.7, 0.3], [0.6, 0.4], [0.5, 0.5]])
    assert predict(probabilities, 0.4).tolist() == [0, 1, 1]
    assert predict(probabilities, None).tolist() == [0, 0, 0]
