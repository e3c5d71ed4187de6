"""What a search says: its winner, who cannot be told from it, and how far two figures are apart."""

import math
from typing import Any

import numpy as np
import pytest

from deit_transfer.analysis.epochs_gain import gain
from deit_transfer.analysis.sweep_winner import difference, find_winner, rivals, search_labels


def row(trial: int, val_top1: float | None, state: str = "done") -> dict[str, Any]:
    return {"trial": trial, "val_top1": val_top1, "state": state}


def test_the_winner_is_the_best_finished_trial_and_the_first_of_equals() -> None:
    rows = [row(1, 80.0), row(2, 90.0), row(3, 90.0), row(4, 99.0, "pruned"), row(5, None, "x")]
    winner = find_winner(rows)
    assert winner is not None
    assert winner["trial"] == 2
    assert find_winner([rows[3], rows[4]]) is None


def newcombe(p: float, q: float, n: int) -> tuple[float, float]:
    """The interval of p - q, written out for shares of n images each."""
    z = 1.959963984540054

    def wilson(share: float) -> tuple[float, float]:
        center = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return center - half, center + half

    (l1, u1), (l2, u2) = wilson(p), wilson(q)
    return (
        p - q - math.sqrt((p - l1) ** 2 + (u2 - q) ** 2),
        p - q + math.sqrt((u1 - p) ** 2 + (q - l2) ** 2),
    )


@pytest.mark.parametrize(("a", "b", "n"), [(90, 85, 500), (50, 60, 100), (98, 98, 5000)])
def test_differences_have_newcombes_interval(a: int, b: int, n: int) -> None:
    low, high = newcombe(a / 100, b / 100, n)
    found = difference(a, b, n=n)
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high))


def test_trials_that_chance_could_have_put_first_are_counted() -> None:
    rows = [row(1, 90.0), row(2, 89.0), row(3, 60.0), row(4, 89.9, "pruned")]
    winner = find_winner(rows)
    assert winner is not None
    assert rivals(rows, winner, num_images=500) == [2]
    assert rivals(rows, winner, num_images=500_000) == []
    flattered, close = search_labels(rows, winner, num_images=500)
    assert "best of 3" in flattered
    assert "1 of the 2 other finished trials cannot be distinguished from the winner" in close
    _, alone = search_labels(rows[:2], winner, num_images=1)
    assert alone.startswith(
        "the other finished trial cannot be distinguished from the winner on 1 "
    )
    assert search_labels(rows[:1], rows[0], num_images=500) == []


def test_what_a_longer_training_gains_is_paired_over_seeds_or_over_images() -> None:
    rng = np.random.default_rng(0)
    shorter, longer = rng.random(400) < 0.6, rng.random(400) < 0.8
    from scipy import stats

    ours, theirs = [80.0, 82.0, 81.5], [60.0, 61.0, 63.0]
    several = gain(ours, theirs, correct_longer=longer, correct_shorter=shorter)
    expected = stats.ttest_rel(ours, theirs)
    assert several["p_value"] == pytest.approx(float(expected.pvalue))
    assert several["delta_ci95"] == pytest.approx(list(expected.confidence_interval()))
    assert several["is_sure"] is True

    one = gain([80.0], [60.0], correct_longer=longer, correct_shorter=shorter)
    assert one["delta"] == pytest.approx(100 * (longer.mean() - shorter.mean()))
    assert "McNemar" in one["test_method"]
    same = gain([60.0], [60.0], correct_longer=shorter, correct_shorter=shorter)
    assert same["is_sure"] is False
