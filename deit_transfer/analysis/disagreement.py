"""How often classifiers decide differently (Table 4), with bootstrap intervals.

Rates are shares of the images, 0..1, as in the paper's Table 4. Shapes: N images, C classifiers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.analysis.statistics import mcnemar

GROUND_TRUTH = "ground truth"
RESAMPLES = 2000  # a guess: the ends of a 95% interval then rest on 50 resamples each


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The decisions of one classifier.

    `classes` (N,) int64 are numbers that mean the same class for all classifiers, below 0 where
    it could not decide; `right` (N,) bool says whether the decision is the ground truth's.
    """

    name: str
    classes: NDArray[np.int64]
    right: NDArray[np.bool_]


def disagreement(
    classifiers: Sequence[Decisions], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Return the rates of different decisions of all pairs, ground truth first.

    Args:
        classifiers: At least one, on the same images in one order; names differ.
        resamples: Bootstrap resamples of the images.
        seed: Of the bootstrap.

    Returns:
        `names` and `matrix` (symmetric, C + 1 a side); `intervals`, a 95% interval [low, high]
        for each entry of the matrix; `tests`, one for each pair of classifiers, of whether their
        error rates differ; `num_images`.

    Raises:
        ValueError: There is no classifier or no image, a name comes twice, or the classifiers
            were not asked about the same number of images.

    Source: Touvron et al., ICML 2021, Table 4; the intervals are percentiles of the bootstrap
    over images (Efron and Tibshirani 1993, section 13.3).
    """
    num_images = _check(classifiers)
    names = [GROUND_TRUTH, *(one.name for one in classifiers)]
    pairs = list(combinations(range(len(names)), 2))
    differing = np.stack([_differs(classifiers, a, b) for a, b in pairs])  # (pairs, N)
    rates = differing.mean(axis=1)
    ends = bootstrap_intervals(differing, resamples=resamples, seed=seed)  # (pairs, 2)
    matrix = np.zeros((len(names), len(names)))
    intervals = np.zeros((len(names), len(names), 2))
    for (a, b), rate, interval in zip(pairs, rates, ends, strict=True):
        matrix[a, b] = matrix[b, a] = rate
        intervals[a, b] = intervals[b, a] = interval
    return {
        "names": names,
        "matrix": matrix.tolist(),
        "intervals": intervals.tolist(),
        "tests": [_test(a, b) for a, b in combinations(classifiers, 2)],
        "num_images": num_images,
    }


def bootstrap_intervals(
    hits: NDArray[np.bool_], *, resamples: int, seed: int, level: float = 0.95
) -> NDArray[np.float64]:
    """Return percentile intervals (R, 2) of the means of R rows over images, resampled together.

    A row without any hit, or with nothing but hits, has an interval of no width.

    Args:
        hits: (R, N).
        resamples: How often N images are drawn with replacement.
        seed: Of the draws.
        level: Coverage, in (0, 1).
    """
    rng = np.random.default_rng(seed)
    num_images = hits.shape[1]
    values = hits.astype(np.float64)
    means = np.empty((resamples, len(hits)))
    for number in range(resamples):
        drawn = rng.integers(num_images, size=num_images)
        times = np.bincount(drawn, minlength=num_images).astype(np.float64)  # (N,)
        means[number] = values @ times / num_images
    ends = [(1 - level) / 2, (1 + level) / 2]
    return np.quantile(means, ends, axis=0).T


def _check(classifiers: Sequence[Decisions]) -> int:
    if not classifiers:
        raise ValueError("there is no classifier to compare")
    names = [GROUND_TRUTH, *(one.name for one in classifiers)]
    if len(set(names)) < len(names):
        raise ValueError(f"each classifier needs a name of its own, got {', '.join(names)}")
    sizes = {len(part) for one in classifiers for part in (one.classes, one.right)}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"classifiers decide on the same images, at least one; got {sizes}")
    return sizes.pop()


def _differs(classifiers: Sequence[Decisions], a: int, b: int) -> NDArray[np.bool_]:
    """Return where two rows of the matrix differ, (N,); row 0 is the ground truth."""
    second = classifiers[b - 1]
    return ~second.right if a == 0 else classifiers[a - 1].classes != second.classes


def _test(a: Decisions, b: Decisions) -> dict[str, Any]:
    """Return whether two classifiers' error rates differ; the sign is that of a's minus b's."""
    accuracy = mcnemar(a.right, b.right)  # in points
    return {
        "a": a.name,
        "b": b.name,
        "error_difference": -accuracy.mean / 100,
        "error_difference_ci95": [-accuracy.high / 100, -accuracy.low / 100],
        "p_value": accuracy.p_value,
        "method": accuracy.method,
    }
