"""Intervals and paired tests against scipy, published examples and arithmetic by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from deit_transfer.analysis.statistics import (
    mcnemar,
    mean_interval,
    paired_difference,
    wilson_interval,
)


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) bool answers of two classifiers with these counts of agreement."""
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def test_mean_interval_by_hand():
    # mean 92, deviations -2 0 2, s = 2, t(0.975, 2) = 4.3027 from any printed table
    low, high = mean_interval([90.0, 92.0, 94.0])
    half = 4.302653 * 2 / math.sqrt(3)
    assert low == pytest.approx(92 - half, abs=1e-5)
    assert high == pytest.approx(92 + half, abs=1e-5)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_mean_interval_equals_scipy(level):
    values = [71.2, 70.4, 73.9, 72.0, 71.1]
    expected = stats.t.interval(level, df=4, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values, level=level) == pytest.approx(expected, rel=1e-9)


def test_mean_interval_of_one_value_is_none():
    assert mean_interval([91.0]) is None


@pytest.mark.parametrize("values", [[], [90.0, float("nan")]])
def test_mean_interval_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match=r"at least one|finite"):
        mean_interval(values)


# Newcombe, Stat. Med. 17 (1998), 857-872, Table I, method 3
@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilson_interval_equals_the_published_one(correct, n, low, high):
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (7, 9), (360, 360), (8734, 10000)])
def test_wilson_interval_equals_scipy(correct, n):
    expected = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    found = wilson_interval(correct, n)
    assert found == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)
    assert found.low <= 100 * correct / n <= found.high


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (5, 4), (-1, 4)])
def test_wilson_interval_refuses_impossible_counts(correct, n):
    with pytest.raises(ValueError, match=r"0\.\.n"):
        wilson_interval(correct, n)


def test_paired_difference_equals_scipy():
    a, b = [91.2, 90.8, 91.9, 90.1], [88.0, 89.1, 88.8, 88.5]
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    found = paired_difference(a, b)
    assert found.mean == pytest.approx(2.4, abs=1e-9)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.n == 4


def test_paired_difference_is_signed_and_paired():
    a, b = [10.0, 20.0, 30.0], [11.0, 21.5, 31.0]
    found, reverse = paired_difference(a, b), paired_difference(b, a)
    assert found.mean == pytest.approx(-reverse.mean) == pytest.approx(-3.5 / 3)
    # unpaired the spread between seeds (10) would drown the difference (1)
    assert found.p_value < 0.05 < stats.ttest_ind(a, b).pvalue


@pytest.mark.parametrize(("a", "b"), [([91.0], [88.0]), ([91.0, 92.0], [88.0, 89.0])])
def test_paired_difference_is_none_without_spread(a, b):
    assert paired_difference(a, b) is None


def test_paired_difference_refuses_what_does_not_pair():
    with pytest.raises(ValueError, match="pair up"):
        paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    "counts", [(1, 1, 7, 12), (20, 12, 2, 16), (700, 80, 40, 180), (0, 3, 0, 0)]
)
def test_mcnemar_p_value_equals_the_binomial_test_less_half_a_point(counts):
    _, only_a, only_b, _ = counts
    discordant = only_a + only_b
    exact = stats.binomtest(only_a, discordant).pvalue
    point = stats.binom.pmf(only_a, discordant, 0.5)
    assert mcnemar(*answers(*counts)).p_value == pytest.approx(exact - point, rel=1e-9)


def test_mcnemar_p_value_at_an_even_split():
    # 1 - P(X = 5) / 2 for X ~ B(10, 1/2): 252 of 1024
    assert mcnemar(*answers(50, 5, 5, 40)).p_value == pytest.approx(1 - 252 / 1024 / 2)


# Fagerland et al. 2013: airway responsiveness, N = 21, mid-p 0.039; interval of Newcombe's method
# 10 in Fagerland et al. 2014. Armitage and Berry: two culture media, as StatsDirect prints it
@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((1, 1, 7, 12), -50.7, -2.6), ((20, 12, 2, 16), 5.6156, 32.9207)],
)
def test_mcnemar_interval_equals_the_published_one(counts, low, high):
    found = mcnemar(*answers(*counts))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)


def test_mcnemar_interval_is_near_the_bootstrap_on_many_images():
    a, b = answers(7000, 800, 400, 1800)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(10_000, [0.7, 0.08, 0.04, 0.18], size=20_000)
    expected = np.percentile((draws[:, 1] - draws[:, 2]) / 100, [2.5, 97.5])
    found = mcnemar(a, b)
    assert found.mean == pytest.approx(4.0)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.05)


def test_mcnemar_of_equal_answers_sees_no_difference():
    a, _ = answers(30, 10, 0, 0)
    found = mcnemar(a, a)
    assert found.mean == 0
    assert found.p_value == 1
    assert found.low <= 0 <= found.high


@pytest.mark.parametrize("n", [1, 2, 5])
def test_mcnemar_interval_holds_where_one_is_all_right_and_the_other_all_wrong(n):
    found = mcnemar(np.ones(n, bool), np.zeros(n, bool))
    assert found.mean == 100
    assert found.low <= 100 <= found.high + 1e-9
    assert math.isfinite(found.low)


def test_mcnemar_refuses_answers_to_different_images():
    with pytest.raises(ValueError, match="one length"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))
