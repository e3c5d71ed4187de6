"""Calibration metrics (ECE, NLL, Brier) and temperature scaling.

Know no run, dataset or network. A temperature is fitted on the answers that it is given; whoever
calls says which images these were, and never gives those that the figures are then taken on.

Shapes: N images, K classes, H heads whose softmaxes are averaged (late fusion).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_BINS = 15  # as in Guo et al., arXiv 1706.04599, section 5 and table 1
# Probabilities below float32's smallest normal number count as it, as in the loss that is scored.
MIN_PROBABILITY = float(np.finfo(np.float32).tiny)
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # a guess: published ones lie in 0.5 to 5


class Calibration(NamedTuple):
    """Calibration of N predictions: `ece` in percentage points, `nll` in nats, `brier` 0..2.

    A temperature of 1 is none.
    """

    ece: float
    nll: float
    brier: float
    n: int


class Bin(NamedTuple):
    """One bin of confidences: its edges, its predictions, and their means in percent."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def calibration(probabilities: ArrayLike, labels: ArrayLike) -> Calibration:
    """Measure how well probabilities match what turned out to be right.

    Args:
        probabilities: (N, K), finite, rows sum to 1, N at least 1.
        labels: (N,) in 0..K-1.

    Source: Guo et al., ICML 2017 (arXiv 1706.04599), section 2, for ECE and NLL; Brier, Monthly
    Weather Review 78 (1950), 1-3, summed over classes.
    """
    rows, right = _checked(probabilities, labels)
    own = rows[np.arange(len(right)), right]  # (N,)
    hot = np.zeros_like(rows)
    hot[np.arange(len(right)), right] = 1.0
    bins = reliability(rows, right)
    gaps = sum(one.n * abs(one.accuracy - one.confidence) for one in bins)
    return Calibration(
        ece=gaps / len(right),
        nll=float(-np.log(np.maximum(own, MIN_PROBABILITY)).mean()),
        brier=float(((rows - hot) ** 2).sum(axis=1).mean()),
        n=len(right),
    )


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = NUM_BINS
) -> list[Bin]:
    """Return the bins of equal width, (low, high], of the decisions' confidences; empty ones too.

    Args:
        probabilities: (N, K), finite.
        labels: (N,) in 0..K-1.
        num_bins: M, 1 or more; bin m holds the confidences in ((m-1)/M, m/M].
    """
    rows, right = _checked(probabilities, labels)
    confidences = rows.max(axis=1)  # (N,)
    hits = rows.argmax(axis=1) == right  # (N,)
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    place = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, num_bins - 1)  # (N,)
    bins = []
    for number in range(num_bins):
        inside = place == number
        count = int(inside.sum())
        confidence = 100 * float(confidences[inside].mean()) if count else 0.0
        accuracy = 100 * float(hits[inside].mean()) if count else 0.0
        bins.append(Bin(edges[number], edges[number + 1], count, confidence, accuracy))
    return bins


def fit_temperature(head_logits: Sequence[ArrayLike], labels: ArrayLike) -> float:
    """Return the temperature T at which the mean of softmax(z / T) has the least NLL.

    One number for all heads. No decision of a single head changes with it.

    Args:
        head_logits: H arrays (N, K), finite.
        labels: (N,) in 0..K-1.

    Returns:
        T, within 0.05 to 20.

    Source: Guo et al., ICML 2017 (arXiv 1706.04599), section 4.2.
    """
    from scipy.optimize import minimize_scalar

    heads = [np.asarray(logits, np.float64) for logits in head_logits]
    right = np.asarray(labels, np.int64)

    def loss(log_temperature: float) -> float:
        probabilities = tempered(heads, math.exp(log_temperature))  # (N, K)
        own = probabilities[np.arange(len(right)), right]
        return float(-np.log(np.maximum(own, MIN_PROBABILITY)).mean())

    ends = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def tempered(head_logits: Sequence[ArrayLike], temperature: float) -> NDArray[np.float64]:
    """Return the mean over heads of softmax(z / temperature), (N, K)."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"a temperature lies above 0, not {temperature}")
    if not head_logits:
        raise ValueError("there are no logits")
    total: NDArray[np.float64] | None = None
    for logits in head_logits:
        scaled = np.asarray(logits, np.float64) / temperature  # (N, K)
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        softmax = powers / powers.sum(axis=1, keepdims=True)
        total = softmax if total is None else total + softmax
    assert total is not None
    return total / len(head_logits)


def _checked(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rows, right = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    if rows.ndim != 2 or right.shape != rows.shape[:1] or not len(right):
        raise ValueError(f"probabilities (N, K) and labels (N,) got {rows.shape}, {right.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("probabilities must be finite: leave unreadable images out")
    return rows, right
