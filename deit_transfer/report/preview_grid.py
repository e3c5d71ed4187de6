"""Draw a grid of labeled images as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deit_transfer.report.plot_style import drawn_png

CELL_INCHES = 1.9
DPI = 100
PAD = 0.04  # inches around each picture
MOST_LETTERS = 30


class PreviewCell(NamedTuple):
    """An image (H, W, 3) uint8 and the text below it."""

    pixels: NDArray[np.uint8]
    text: str


def preview_png(
    path: Path, rows: Sequence[Sequence[PreviewCell]], *, columns: Sequence[str], title: str
) -> None:
    """Draw a grid with a heading over each column, and write the PNG whole.

    Args:
        path: Where the PNG appears, or is replaced; its folder is made.
        rows: At least one, each with a cell for every column.
        columns: The headings.
        title: One line or several over all.

    Raises:
        ResourceError: The disk is full.
    """

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for number, row in enumerate(rows):
            for column, cell in enumerate(row):
                axes = grid[number, column]
                axes.imshow(cell.pixels, interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_xlabel(_short(cell.text), fontsize=8, parse_math=False)
                if number == 0:
                    axes.set_title(columns[column], fontsize=10, parse_math=False)
        figure.suptitle(title, fontsize=9, wrap=True, parse_math=False)

    size = (CELL_INCHES * len(columns), 0.8 + (CELL_INCHES + 0.2) * len(rows))
    drawn_png(path, draw, size=size, dpi=DPI, pad=PAD)


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}..."
