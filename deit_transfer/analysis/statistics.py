"""Confidence intervals and paired tests on accuracies in percent.

A figure over seeds varies with the seed and gets Student's t; a figure of one run varies only
with the test images drawn and gets a score interval. Neither covers the other's variation.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Interval(NamedTuple):
    """The two ends of a confidence interval, in the unit of its metric."""

    low: float
    high: float


class Difference(NamedTuple):
    """A paired difference with its interval and p-value, and what the `n` pairs were."""

    mean: float
    low: float
    high: float
    p_value: float
    n: int
    method: str


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Return Student's t interval of the mean, or None for a single value.

    Args:
        values: n figures that vary independently, such as one top-1 per seed.
        level: Coverage, in (0, 1).

    Raises:
        ValueError: There are no values, or one is not finite.
    """
    _check_finite(values)
    if len(values) < 2:
        return None
    half = _t_quantile(level, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def wilson_interval(correct: int, n: int, *, level: float = 0.95) -> Interval:
    """Return Wilson's score interval, in percent, of an accuracy of `correct` out of `n`.

    Args:
        correct: Images answered rightly, in 0..n.
        n: Images scored, at least 1.
        level: Coverage, in (0, 1).

    Raises:
        ValueError: `correct` is not in 0..n, or n is 0.

    Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"correct must lie in 0..n with n >= 1, got {correct} of {n}")
    z2 = _normal_quantile(level) ** 2
    center = (correct + z2 / 2) / (n + z2)
    half = math.sqrt(z2) / (n + z2) * math.sqrt(correct * (n - correct) / n + z2 / 4)
    # rounding must not push an end past the figure itself where all or none are correct
    low = 0.0 if correct == 0 else max(0.0, center - half)
    high = 1.0 if correct == n else min(1.0, center + half)
    return Interval(100 * low, 100 * high)


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, level: float = 0.95
) -> Difference | None:
    """Return the mean of a - b over seeds with a paired t interval and two-sided p-value.

    Args:
        a: n figures, one per seed.
        b: n figures of the same seeds in the same order.
        level: Coverage of the interval, in (0, 1).

    Returns:
        None where t says nothing: a single pair, or differences that are all equal (accuracies
        are multiples of 100 / N, so equal differences happen by chance and prove no precision).

    Raises:
        ValueError: The lengths differ, there are no values, or one is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"a and b must pair up, got {len(a)} and {len(b)} values")
    _check_finite([*a, *b])
    differences = [x - y for x, y in zip(a, b, strict=True)]
    n = len(differences)
    if n < 2 or max(differences) - min(differences) < 1e-9:
        return None
    mean, error = fmean(differences), stdev(differences) / math.sqrt(n)
    half = _t_quantile(level, n - 1) * error
    p_value = _t_two_sided(mean / error, n - 1)
    return Difference(mean, mean - half, mean + half, p_value, n, "paired t-test over seeds")


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike, *, level: float = 0.95) -> Difference:
    """Return accuracy a - b in percentage points over the same images, tested on discordant ones.

    The p-value is McNemar's exact one less half of the observed table's probability (mid-p): the
    exact test alone is too cautious on the few images that two classifiers answer differently.

    Args:
        correct_a: (N,) bool, whether each image was answered rightly.
        correct_b: (N,) bool, the same images in the same order.
        level: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: The arrays are not of one length, or empty.

    Source: Fagerland, Lydersen, Laake, BMC Med. Res. Methodol. 13:91 (2013) for the test;
    Newcombe, Stat. Med. 17 (1998), 2635-2650, method 10, for the interval.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"a and b must be of one length, got shapes {a.shape} and {b.shape}")
    both, only_a, only_b, neither = _paired_counts(a, b)
    low, high = _newcombe(both, only_a, only_b, neither, level=level)
    mean = 100 * (only_a - only_b) / a.size
    p_value = _mid_p(only_a, only_b)
    return Difference(mean, low, high, p_value, a.size, "McNemar mid-p test over test images")


def mean_answers_difference(
    correct_a: ArrayLike, correct_b: Sequence[ArrayLike], *, level: float = 0.95
) -> Difference:
    """Return accuracy a less the mean accuracy of several b, in points, tested over the images.

    Each image gives one difference: a's answer less the share of b that is right. The classifiers
    are taken as given; only the images are chance.

    Args:
        correct_a: (N,) bool, whether each image was answered rightly.
        correct_b: (N,) bool each, the same images in the same order; at least one.
        level: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: The arrays are not of one length, or fewer than two images.
    """
    a = np.asarray(correct_a, bool)
    others = [np.asarray(b, bool) for b in correct_b]
    if not others or any(b.shape != a.shape for b in others) or a.ndim != 1 or a.size < 2:
        raise ValueError(f"a and every b must be of one length over 1, got {a.shape}")
    share = np.mean(others, axis=0)  # (N,)
    differences = 100 * (a - share)
    if differences.std() < 1e-9:  # not one image is answered differently: McNemar's own case
        return mcnemar(a, others[0], level=level)
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(a.size)
    half = _t_quantile(level, a.size - 1) * error
    p_value = _t_two_sided(mean / error, a.size - 1)
    method = "paired t-test over test images"
    return Difference(mean, mean - half, mean + half, p_value, a.size, method)


def _paired_counts(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    both, only_a, only_b = (int(np.sum(x)) for x in (a & b, a & ~b, ~a & b))
    return both, only_a, only_b, a.size - both - only_a - only_b


def _mid_p(only_a: int, only_b: int) -> float:
    from scipy.special import bdtr

    discordant, fewer = only_a + only_b, min(only_a, only_b)
    if not discordant:
        return 1.0
    below = float(bdtr(fewer - 1, discordant, 0.5)) if fewer else 0.0
    point = float(bdtr(fewer, discordant, 0.5)) - below
    # at an even split the tails meet, and the observed table lies in both
    return 1.0 - point / 2 if only_a == only_b else 2 * below + point


def _newcombe(
    both: int, only_a: int, only_b: int, neither: int, *, level: float
) -> tuple[float, float]:
    """Return the square-and-add interval of a - b in points, from the two Wilson intervals."""
    n = both + only_a + only_b + neither
    right_a, right_b = both + only_a, both + only_b
    p_a, p_b = 100 * right_a / n, 100 * right_b / n
    a, b = wilson_interval(right_a, n, level=level), wilson_interval(right_b, n, level=level)
    phi = _corrected_phi(both, only_a, only_b, neither)
    delta = p_a - p_b
    return (
        delta - _square_and_add(p_a - a.low, b.high - p_b, phi),
        delta + _square_and_add(a.high - p_a, p_b - b.low, phi),
    )


def _square_and_add(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def _corrected_phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Return the correlation of the two answers, with Newcombe's continuity correction."""
    n = both + only_a + only_b + neither
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if not margins:
        return 0.0
    determinant: float = both * neither - only_a * only_b
    if determinant > 0:
        determinant = max(0.0, determinant - n / 2)
    return determinant / math.sqrt(margins)


def _normal_quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _t_quantile(level: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def _t_two_sided(t: float, degrees: int) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(t)))


def _check_finite(values: Sequence[float]) -> None:
    if not values:
        raise ValueError("an interval needs at least one value")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be finite, got {list(values)}")
