"""Label efficiency: how many labels one way of training is worth to another.

An arm A at some number of labels is held against another arm B at every number measured. Where
A - B turns from positive to negative, on a logarithmic axis of labels, B is as good as A; where
the ends of the difference's interval turn, the doubt about it begins and ends. Nothing is said
beyond the labels measured, nor where B's curve falls as labels grow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from deit_transfer.analysis.comparison import ArmRuns, arm_difference
from deit_transfer.analysis.statistics import Difference

Relation = Literal["more_than", "about", "at_least", "at_most", "less_than", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """The results of all arms with the same labeled images, on one test set.

    `fraction` is the share of the labeled images, in (0, 1]; `labels` is their number.
    """

    fraction: float
    labels: int
    arms: Mapping[str, ArmRuns]


def exchange_rates(
    sizes: Sequence[Size], *, baseline: str, level: float = 0.95
) -> list[dict[str, Any]]:
    """Return, for every arm but the baseline and every size, how many labels the baseline needs.

    Each entry has `arm`, `baseline`, `fraction`, `labels`; `relation`, one of

        more_than   clearly better than the baseline with all labels measured
        about       both ends of the interval lie within the labels measured
        at_least    clearly better at some size, but how far beyond cannot be said
        at_most     clearly worse at some size, but how far below cannot be said
        less_than   clearly worse than the baseline with the fewest labels measured
        unclear     none of these; `reason` says why

    `equals_labels` and `equals_ci95` (number of labels; None where it lies beyond what was
    measured); `beaten` and `beaten_by`, the largest size of the baseline that it clearly beats and
    the smallest that clearly beats it (each `fraction`, `labels`, `delta`, `delta_ci95`,
    `p_value`, `test_method`); `reason`. Soups are left out: one of them says nothing of how much
    the next one, of other seeds, would differ.

    Args:
        sizes: In ascending order of labels; the baseline is in all of them.
        baseline: Whose labels the others are worth.
        level: Coverage of the intervals, in (0, 1); the keys are named for the default.

    Raises:
        ValueError: The labels do not ascend, or arms cannot be paired.
    """
    counts = [size.labels for size in sizes]
    if any(later <= earlier for earlier, later in pairwise(counts)):
        raise ValueError(f"labels must ascend, got {counts}")
    arms = dict.fromkeys(
        name
        for size in sizes
        for name, arm in size.arms.items()
        if name != baseline and not arm.soup_of
    )
    return [
        _rate(size, arm, sizes, baseline=baseline, level=level)
        for arm in arms
        for size in sizes
        if arm in size.arms
    ]


def _rate(
    size: Size, arm: str, sizes: Sequence[Size], *, baseline: str, level: float
) -> dict[str, Any]:
    found = [arm_difference(size.arms[arm], other.arms[baseline], level=level) for other in sizes]
    # clear is what the interval and the test both say
    sure = [difference.p_value < 1 - level for difference in found]
    lows = [d.low if clear else min(d.low, 0.0) for d, clear in zip(found, sure, strict=True)]
    highs = [d.high if clear else max(d.high, 0.0) for d, clear in zip(found, sure, strict=True)]
    num_beaten = _leading(low > 0 for low in lows)
    num_beating = _leading(high < 0 for high in reversed(highs))
    relation = _relation(num_beaten, num_beating, len(sizes))
    logs = [math.log(other.labels) for other in sizes]
    low = _crossing(logs, lows, num_beaten)
    high = _crossing(logs, highs, len(sizes) - num_beating)
    means = [difference.mean for difference in found]
    num_ahead = _leading(mean > 0 for mean in means)
    steady = all(mean <= 0 for mean in means[num_ahead:])
    if relation == "about" and not steady:
        relation = "unclear"
    return {
        "arm": arm,
        "baseline": baseline,
        "fraction": size.fraction,
        "labels": size.labels,
        "relation": relation,
        "equals_labels": _labels(_crossing(logs, means, num_ahead)) if steady else None,
        "equals_ci95": [_labels(low), _labels(high)],
        "beaten": _held_against(sizes, found, num_beaten - 1),
        "beaten_by": _held_against(sizes, found, len(sizes) - num_beating),
        "reason": _reason(relation, baseline, steady=steady),
    }


def _leading(flags: Any) -> int:
    """Return how many flags hold before the first that does not."""
    count = 0
    for flag in flags:
        if not flag:
            break
        count += 1
    return count


def _relation(num_beaten: int, num_beating: int, num_sizes: int) -> Relation:
    if num_beaten == num_sizes:
        return "more_than"
    if num_beating == num_sizes:
        return "less_than"
    if num_beaten and num_beating:
        return "about"
    if num_beaten:
        return "at_least"
    return "at_most" if num_beating else "unclear"


def _crossing(logs: Sequence[float], values: Sequence[float], place: int) -> float | None:
    """Return where values pass zero between place - 1 (above) and place; None past either end."""
    if not 0 < place < len(logs):
        return None
    above, below = values[place - 1], values[place]
    share = above / (above - below) if above > below else 1.0
    return logs[place - 1] + share * (logs[place] - logs[place - 1])


def _labels(log_labels: float | None) -> int | None:
    return None if log_labels is None else round(math.exp(log_labels))


def _held_against(
    sizes: Sequence[Size], found: Sequence[Difference], place: int
) -> dict[str, Any] | None:
    if not 0 <= place < len(sizes):
        return None
    return {
        "fraction": sizes[place].fraction,
        "labels": sizes[place].labels,
        "delta": found[place].mean,
        "delta_ci95": [found[place].low, found[place].high],
        "p_value": found[place].p_value,
        "test_method": found[place].method,
    }


def _reason(relation: Relation, baseline: str, *, steady: bool) -> str:
    if relation != "unclear":
        return ""
    if not steady:
        return f"the curve of {baseline} crosses this accuracy more than once"
    return f"no measured size of {baseline} differs from it by more than chance allows"
