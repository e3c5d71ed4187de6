"""Calibration against direct sums, scikit-learn and a dense grid."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from deit_transfer.analysis.calibration import (
    calibration,
    fit_temperature,
    reliability,
    tempered,
)


def answers(num: int = 200, classes: int = 5, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) that know something, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, num)
    logits = rng.normal(size=(num, classes)) * 2
    logits[np.arange(num), labels] += 2
    return logits, labels


def ece_by_hand(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> float:
    total = 0.0
    for number in range(1, num_bins + 1):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if (number - 1) / num_bins < row.max() <= number / num_bins
        ]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return 100 * total


def test_the_measures_equal_direct_sums_and_scikit_learns() -> None:
    logits, labels = answers()
    probabilities = softmax(logits, axis=1)
    found = calibration(probabilities, labels)
    assert found.n == 200
    assert found.ece == pytest.approx(ece_by_hand(probabilities, labels, 15), rel=1e-9)
    assert found.nll == pytest.approx(log_loss(labels, probabilities), rel=1e-9)
    per_class = [brier_score_loss(labels == k, probabilities[:, k]) for k in range(5)]
    assert found.brier == pytest.approx(sum(per_class), rel=1e-9)


def test_a_bin_holds_its_upper_edge_and_not_its_lower_one() -> None:
    probabilities = np.array([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0], [1.0, 0.0, 0.0]])
    bins = reliability(probabilities, [0, 1, 0], num_bins=4)
    assert [one.n for one in bins] == [0, 1, 1, 1]
    assert [one.accuracy for one in bins] == [0, 100, 0, 100]
    assert bins[2].confidence == 75


def test_perfect_confidence_that_is_right_has_no_error() -> None:
    found = calibration(np.eye(3), [0, 1, 2])
    assert (found.ece, found.nll, found.brier) == (0, 0, 0)


def test_a_sure_error_has_a_finite_loss() -> None:
    assert calibration([[1.0, 0.0]], [1]).nll == pytest.approx(-np.log(np.finfo(np.float32).tiny))


@pytest.mark.parametrize("heads", [1, 2])
def test_no_other_temperature_has_a_lower_loss(heads: int) -> None:
    logits = [answers(seed=seed)[0] * 3 for seed in range(heads)]
    labels = answers()[1]
    tried = np.geomspace(1, 20, 400)
    losses = [
        log_loss_of(np.mean([softmax(one / t, axis=1) for one in logits], axis=0), labels)
        for t in tried
    ]
    best = tried[int(np.argmin(losses))]
    assert 1.2 < best < 15  # three times too sure
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=5e-3)


def log_loss_of(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def test_a_temperature_keeps_decisions_and_lowers_the_loss_it_was_fitted_on() -> None:
    logits, labels = answers()
    temperature = fit_temperature([logits * 4], labels)
    mended = tempered([logits * 4], temperature)
    assert (mended.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert mended.sum(axis=1) == pytest.approx(1)
    before = calibration(tempered([logits * 4], 1.0), labels)
    assert calibration(mended, labels).nll < before.nll
    assert tempered([logits * 4], 1.0) == pytest.approx(softmax(logits * 4, axis=1))


def test_answers_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        calibration([[np.nan, 1.0]], [0])
    with pytest.raises(ValueError, match="above 0"):
        tempered([[[1.0]]], 0.0)
