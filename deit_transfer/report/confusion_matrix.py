"""Plot a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.report.plot_style import INK, drawn_png

MOST_NUMBERED = 20  # classes; with more, numbers would not fit their cells
MOST_NAMED = 60
MOST_LETTERS = 24
INCHES_A_CLASS = 0.55


def confusion_png(
    path: Path, counts: NDArray[np.int64], *, class_names: Sequence[str], title: str
) -> None:
    """Draw how often images of each class (rows) are given each class (columns).

    Shades are shares of the row, so that rare classes show as well as frequent ones.

    Args:
        path: Where the PNG appears, or is replaced.
        counts: (C, C) whole numbers.
        class_names: C names, in the order of the rows.
        title: One line.

    Raises:
        ResourceError: The disk is full.
    """
    side = min(13.0, max(5.0, INCHES_A_CLASS * len(class_names)))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (C, C)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        _name_classes(axes, class_names)
        if len(class_names) <= MOST_NUMBERED:
            _write_numbers(axes, counts, shares)
        axes.set_ylabel("True class", color=INK)
        axes.set_xlabel("Predicted class", color=INK)
        figure.colorbar(image, ax=axes, shrink=0.7, label="% of the images of a class")
        figure.suptitle(title, color=INK, parse_math=False, fontsize=14, fontweight="bold")

    drawn_png(path, draw, size=(side + 2.6, side + 1.6))


def _name_classes(axes: Any, class_names: Sequence[str]) -> None:
    if len(class_names) > MOST_NAMED:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    names = [
        name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."
        for name in class_names
    ]
    places = range(len(names))
    size = 11 if len(names) <= MOST_NUMBERED else 7
    axes.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, names, fontsize=size, parse_math=False)


def _write_numbers(axes: Any, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(counts > 0).tolist():
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 55 else INK,
        )
