"""What more epochs gain: the paired difference between two lengths of one arm."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.analysis.statistics import mcnemar, paired_difference

SIGNIFICANT = 0.05


def gain(
    longer: Sequence[float],
    shorter: Sequence[float],
    *,
    correct_longer: NDArray[np.bool_],
    correct_shorter: NDArray[np.bool_],
) -> dict[str, Any]:
    """Return what the longer training gains in points of top-1, with interval and test.

    Args:
        longer: Top-1 in percent, one per seed.
        shorter: Of the same seeds, in the same order.
        correct_longer: (N,) which test images the first seed's longer run got right.
        correct_shorter: (N,) the same of its shorter run, in the same order.
    """
    found = paired_difference(longer, shorter)
    if found is None:  # t has nothing to go by: the images of the first seed have to answer
        found = mcnemar(correct_longer, correct_shorter)
    return {
        "delta": found.mean,
        "delta_ci95": [max(-100.0, found.low), min(100.0, found.high)],
        "p_value": found.p_value,
        "test_method": found.method,
        "is_sure": found.p_value < SIGNIFICANT,
    }
