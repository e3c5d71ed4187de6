"""Plot a reliability diagram: accuracy against confidence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deit_transfer.report.plot_style import INK, STYLES, drawn_png, quieten


def reliability_png(
    path: Path,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    title: str,
    facts: Mapping[str, Any],
) -> None:
    """Draw accuracy against confidence, and below it how many answers each bin holds.

    Args:
        path: Where the PNG appears, or is replaced.
        rows: By name, bins with `low`, `high`, `n`, and `confidence` and `accuracy` in percent.
        title: One line.
        facts: `ece` and, where a temperature was fitted, `ece_scaled` and `fitted_on`.

    Raises:
        ResourceError: The disk is full.
    """
    errors = [facts["ece"], facts.get("ece_scaled")]

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        above.plot([0, 100], [0, 100], color=INK, linestyle=(0, (6, 4)), linewidth=1.2)
        for number, (name, bins) in enumerate(rows.items()):
            filled = [one for one in bins if one["n"]]
            label = f"{name}: ECE {errors[number]:.2f}%"
            _draw_bins(above, below, filled, number=number, label=label)
        fitted = facts.get("fitted_on")
        below.set_xlabel(
            "confidence (%)" + (f"\ntemperature fitted on {fitted}" if fitted else ""),
            color=INK,
            parse_math=False,
        )
        above.set_ylabel("accuracy (%)", color=INK)
        below.set_ylabel("images", color=INK)
        for axes in (above, below):
            quieten(axes)
        below.yaxis.get_major_locator().set_params(integer=True)
        above.set_xlim(0, 101)
        above.set_ylim(0, 101)
        above.legend(frameon=False, loc="upper left")
        figure.suptitle(title, color=INK, parse_math=False, fontsize=14, fontweight="bold")

    drawn_png(path, draw, size=(7.5, 8))


def _draw_bins(
    above: Any, below: Any, bins: Sequence[Mapping[str, Any]], *, number: int, label: str
) -> None:
    style = STYLES[number]
    confidence = [one["confidence"] for one in bins]
    above.plot(
        confidence,
        [one["accuracy"] for one in bins],
        color=style.color,
        marker=style.marker,
        linewidth=2.2,
        label=label,
    )
    below.plot(
        confidence,
        [one["n"] for one in bins],
        color=style.color,
        marker=style.marker,
        linewidth=1.6,
    )
