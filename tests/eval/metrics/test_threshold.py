import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
)

from eval.metrics.threshold import sweep

ORACLES = {
    "balanced_accuracy": balanced_accuracy_score,
    "accuracy": accuracy_score,
    "f1": f1_score,
    "mcc": matthews_corrcoef,
}


@pytest.mark.parametrize("criterion", ORACLES)
@pytest.mark.parametrize("seed", range(2))
def test_no_threshold_is_better(criterion: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 120)
    scores = np.round(np.clip(0.3 * labels + rng.random(120) * 0.8, 0, 1), 2)
    found = sweep(labels, scores, criterion)
    each = [ORACLES[criterion](labels, scores >= tau) for tau in np.arange(0.005, 1.0, 0.01)]
    assert found.value == pytest.approx(max(each))
    assert ORACLES[criterion](labels, scores >= found.tau) == pytest.approx(found.value)


def test_of_equal_thresholds_the_nearest_to_a_half_is_taken() -> None:
    assert sweep(np.array([0, 1]), np.array([0.1, 0.9])).tau == 0.5
    assert sweep(np.array([0, 1, 1]), np.array([0.1, 0.3, 0.9])).tau == pytest.approx(0.2)
    symmetric = sweep(np.array([1, 0, 1, 0]), np.array([0.2, 0.4, 0.6, 0.8]))
    assert symmetric.tau == 0.5


def test_the_curve_holds_its_top_and_stays_small() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50_000)
    found = sweep(labels, np.clip(rng.random(50_000) + 0.1 * labels, 0, 1))
    assert len(found.taus) <= 201
    assert found.value == found.values.max()


def test_one_score_for_all_leaves_a_half() -> None:
    assert sweep(np.array([0, 1, 1]), np.full(3, 0.7)).tau == 0.5


def test_unknown_criteria_are_refused() -> None:
    with pytest.raises(ValueError, match="criterion must be one of balanced_accuracy"):
        sweep(np.array([0, 1]), np.array([0.1, 0.9]), "luck")
