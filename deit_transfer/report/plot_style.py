"""The style of all plots, and writing one as a PNG file."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from deit_transfer.errors import ResourceError
from deit_transfer.files import check_replaceable, write_bytes_atomic


class Style(NamedTuple):
    """How an arm is drawn: its color and its marker each identify it alone."""

    color: str
    marker: str


# Okabe and Ito's palette, whose colors stay apart for color-blind readers
STYLES = (
    Style("#D55E00", "s"),
    Style("#0072B2", "o"),
    Style("#009E73", "^"),
    Style("#CC79A7", "D"),
    Style("#E69F00", "v"),
)
INK, FAINT = "#222222", "#d9d9d9"
FONT_SIZES = {"font.size": 13, "axes.titlesize": 14, "legend.fontsize": 12}
DPI = 150
# how a figure of ours is told from other pictures when it is to be replaced
SOFTWARE = "deit-transfer"


def check_png(path: Path, *, option: str = "--out") -> None:
    """Refuse to draw over what is no figure of this program; raises UsageError."""
    mark = f"Software\0{SOFTWARE}".encode()
    check_replaceable(path, lambda head: mark in head, ours="a plot of this program", option=option)


def drawn_png(
    path: Path,
    draw: Callable[[Any], None],
    *,
    size: tuple[float, float],
    dpi: int = DPI,
    pad: float = 0.12,
) -> None:
    """Call a function that draws into a new figure, and write it as PNG.

    Args:
        path: Where the PNG appears, or is replaced; its folder is made.
        draw: Draws into the matplotlib figure it is given.
        size: Width and height in inches.
        dpi: Pixels an inch.
        pad: Inches around each part of the figure.

    Raises:
        ResourceError: The file cannot be written, or the disk is full.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(FONT_SIZES), warnings.catch_warnings():
        # names in scripts that the font lacks show as boxes; that must not stop a report
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size)
        figure.set_layout_engine("constrained", w_pad=pad, h_pad=pad)
        FigureCanvasAgg(figure)
        draw(figure)
        png = io.BytesIO()
        metadata = {"Software": SOFTWARE}
        figure.savefig(png, format="png", dpi=dpi, facecolor="white", metadata=metadata)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, png.getvalue())
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror}", hint="Choose another place with --out"
        ) from error


def dress(axes: Any, *, title: str, x: str, y: str) -> None:
    """Set the titles of axes and their grid."""
    axes.set_title(title, loc="left", color=INK, parse_math=False)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    quieten(axes)


def quieten(axes: Any) -> None:
    """Leave axes a faint grid behind what is drawn, and no frame."""
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def log_speeds(axes: Any, speeds: list[float]) -> None:
    """Scale the x axis for speeds: by factors, with a margin, in plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 1.35, max(speeds) * 1.8)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
