"""Cosine similarities: of tokens layer by layer, of positions over the grid.

Shapes: N images, L layers, D dimensions, an h x w grid of patches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPREAD = (5, 95)  # percentiles over images that show the spread


def cosine(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return the cosine of the angle between vectors along the last axis, in -1..1.

    A vector of length 0 has no direction and gives 0.

    Args:
        a: (..., D).
        b: (..., D), broadcast against `a`.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    dot = (first * second).sum(axis=-1)
    return np.clip(dot / np.where(lengths == 0, 1.0, lengths), -1.0, 1.0)


def describe_cosines(cosines: ArrayLike) -> dict[str, float]:
    """Return the mean over images, the standard deviation, and the 5th and 95th percentile.

    Args:
        cosines: (N,), N at least 1.
    """
    values = np.asarray(cosines, np.float64)
    low, high = np.percentile(values, SPREAD)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "low": float(low),
        "high": float(high),
    }


def position_similarity(positions: ArrayLike) -> NDArray[np.float64]:
    """Return the cosine (h, w, h, w) of every patch's position embedding with every other's.

    Args:
        positions: (h, w, D).
    """
    grid = np.asarray(positions, np.float64)
    return cosine(grid[:, :, None, None], grid[None, None])


def describe_positions(similarity: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean cosine of positions that are neighbors, share a row or column, or neither.

    Args:
        similarity: (h, w, h, w), as `position_similarity` returns it.

    Returns:
        `neighbors` (one step apart), `same_row`, `same_column`, `elsewhere` (in another row and
        column); a kind of which the grid has no pair is left out.
    """
    rows, columns, *_ = np.indices(similarity.shape)
    down = np.abs(rows - np.indices(similarity.shape)[2])
    across = np.abs(columns - np.indices(similarity.shape)[3])
    kinds = {
        "neighbors": down + across == 1,
        "same_row": (down == 0) & (across > 0),
        "same_column": (across == 0) & (down > 0),
        "elsewhere": (down > 0) & (across > 0),
    }
    return {name: float(similarity[where].mean()) for name, where in kinds.items() if where.any()}


def map_overlap(a: Sequence[Any] | NDArray[Any], b: Sequence[Any] | NDArray[Any]) -> float:
    """Return the mean over images of the cosine between two attention maps (N, h, w)."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(cosine(first.reshape(len(first), -1), second.reshape(len(second), -1)).mean())
