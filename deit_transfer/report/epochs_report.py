"""Show accuracy against epochs: table, Markdown page and plot.

Reads the object that `run.epochs` returns, and holds the paper's points beside it; tests nothing.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from deit_transfer.report.comparison import top1_lines
from deit_transfer.report.number_format import (
    NOTHING,
    compact,
    counted,
    duration,
    grouped,
    p_text,
    percent,
)
from deit_transfer.report.plot_style import INK, STYLES, Style, drawn_png, dress
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table, printable

Lengths = Mapping[str, Any]

PAPER = "Touvron et al., ICML 2021, ImageNet"
# Tables 3 and 5, at 224 pixels: top-1 by epochs; Figure 3 draws such curves and prints no numbers
PAPER_POINTS: dict[str, dict[str, dict[int, float]]] = {
    "DeiT-Ti": {"plain": {300: 72.2}, "distilled": {300: 74.5, 1000: 76.6}},
    "DeiT-S": {"plain": {300: 79.8}, "distilled": {300: 81.2, 1000: 82.6}},
    "DeiT-B": {"plain": {300: 81.8}, "distilled": {300: 83.4, 1000: 84.2}},
}
PAPER_SATURATION = 400  # epochs, without distillation: Figure 3
PAPER_WORDS = (
    "in the paper (Figure 3, ImageNet) the plain model stops gaining at about 400 epochs, and "
    "the distilled one still gains at 1000"
)
SIZES = {"tiny": "DeiT-Ti", "small": "DeiT-S", "base": "DeiT-B"}
ASIDE = 1.01
ARM_STYLES: dict[str, Style] = {"plain": STYLES[0], "distilled": STYLES[2]}


def epochs_table(found: Lengths) -> Screen:
    """Return accuracy by length and arm, what each step gained, and the paper's points.

    Args:
        found: `dataset`, `mode`, `model`, `seeds`, `points` (each `epochs`, `arms` as a
            comparison's, `differences`), `gains` (each `arm`, `from`, `to`, `delta`,
            `delta_ci95`, `p_value`, `is_sure`), `teacher`, `teacher_top1`, `num_test_images`,
            `labels`.
    """
    return Screen(lambda terminal: _screen(found, terminal))


def epochs_markdown(found: Lengths, *, command: str, figure: str) -> str:
    """Return the same as one Markdown page.

    Args:
        found: As `epochs_table` takes it.
        command: What was typed, so that it can be typed again.
        figure: Path of the figure, relative to the page.
    """
    titles, rows = _cells(found, plus_minus="±")
    lines = [titles, ["---:" for _ in titles], *rows]
    table = "\n".join(f"| {' | '.join(_flat(value) for value in line)} |" for line in lines)
    parts = [
        f"# {_title(found)}",
        table,
        f"![Top-1 by the length of training](<{figure}>)",
        "\n".join(f"- {printable(line)}" for line in [*_gain_lines(found), *_notes(found)]),
        f"```sh\n{printable(command)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def epochs_png(path: Path, found: Lengths) -> None:
    """Draw top-1 with its interval by the length of training, the paper's points beside it.

    Args:
        path: Where the PNG appears, or is replaced.
        found: As `epochs_table` takes it.

    Raises:
        ResourceError: The disk is full.
    """

    def draw(figure: Any) -> None:
        ours, paper = figure.subplots(1, 2, width_ratios=(1.7, 1))
        figure.suptitle(
            "Accuracy against the length of training",
            fontsize=15,
            fontweight="bold",
            color=INK,
        )
        _draw_ours(ours, found)
        _draw_paper(paper, paper_family(found["model"]))

    drawn_png(path, draw, size=(12, 6))


def paper_family(model: str) -> str:
    """Return the DeiT whose points the paper gives: the model's own size, else DeiT-B."""
    matched = re.match(r"deit_(tiny|small|base)_", model)
    return SIZES[matched[1]] if matched is not None else "DeiT-B"


def _screen(found: Lengths, terminal: TerminalStyle) -> RenderableType:
    titles, rows = _cells(found, plus_minus=terminal.plus_minus)
    table = new_table(terminal, _title(found))
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(terminal.lines(cell.split("\n")) for cell in row))
    lines = [terminal.text(line, style="bold") for line in _gain_lines(found)]
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note in _notes(found):
        notes.add_row("*", terminal.text(note, style="dim"))
    return Group(table, *lines, notes)


def _title(found: Lengths) -> str:
    seeds = len(found["seeds"])
    return (
        f"{found['dataset']}, {found['model']}, {found['mode']}, "
        f"{seeds} seed{'s' * (seeds > 1)}, {grouped(found['num_test_images'])} test images"
    )


def _cells(found: Lengths, *, plus_minus: str) -> tuple[list[str], list[list[str]]]:
    arms = [arm["arm"] for arm in found["points"][0]["arms"]]
    distilled = len(arms) > 1
    rows = []
    for point in found["points"]:
        figures = ["\n".join(top1_lines(arm, plus_minus=plus_minus)) for arm in point["arms"]]
        times = [duration(arm["seconds_mean"]) for arm in point["arms"]]
        difference = [_difference(point["differences"][0])] if distilled else []
        seen = compact(point["arms"][0]["images_seen_mean"])
        rows.append([str(point["epochs"]), seen, *figures, *difference, "\n".join(times)])
    titles = ["epochs", "images", *arms, *(["distilled\n- plain"] if distilled else [])]
    return [*titles, "time\nof each" if distilled else "time"], rows


def _difference(difference: Mapping[str, Any]) -> str:
    low, high = difference["delta_ci95"]
    return f"{difference['delta']:+.1f}\n[{low:+.1f}, {high:+.1f}]\n{p_text(difference['p_value'])}"


def _gain_lines(found: Lengths) -> list[str]:
    return [
        f"{one['arm']}, {one['from']} to {counted(one['to'], 'epoch')}: {one['delta']:+.1f} points "
        f"[{one['delta_ci95'][0]:+.1f}, {one['delta_ci95'][1]:+.1f}], {p_text(one['p_value'])}"
        + ("" if one["is_sure"] else ": cannot be distinguished from chance")
        for one in found["gains"]
    ]


def _notes(found: Lengths) -> list[str]:
    notes = ["each length is a training of its own, with its own whole schedule"]
    if found["teacher"] is not None:
        known = found.get("teacher_top1")
        figure = f", {percent(known)}% on held-out images" if known is not None else ""
        notes.append(f"teacher: {found['teacher']}{figure}")
    notes += found["labels"]
    arms = [arm for point in found["points"] for arm in point["arms"]]
    if reused := sum(arm["reused"] for arm in arms):
        total = counted(sum(arm["n"] for arm in arms), "run")
        notes.append(f"reused: {reused} of {total}")
    return [*notes, _paper_note(paper_family(found["model"])), PAPER_WORDS]


def _paper_note(family: str) -> str:
    points = [
        f"{arm} {percent(top1)} at {epochs} epochs"
        for arm, by_epochs in PAPER_POINTS[family].items()
        for epochs, top1 in by_epochs.items()
    ]
    return f"the paper's {family} ({PAPER}, Tables 3 and 5): {', '.join(points)}"


def _flat(text: str) -> str:
    return printable(text.replace("\n", " ")).replace("|", "\\|") or NOTHING


def _draw_ours(axes: Any, found: Lengths) -> None:
    for place, arm in enumerate(found["points"][0]["arms"]):
        own = [point["arms"][place] for point in found["points"]]
        style, top1 = ARM_STYLES[arm["arm"]], [one["top1_mean"] for one in own]
        low = [figure - one["top1_ci95"][0] for figure, one in zip(top1, own, strict=True)]
        high = [one["top1_ci95"][1] - figure for figure, one in zip(top1, own, strict=True)]
        # side by side, that intervals of one length do not hide each other
        places = [epochs * ASIDE ** (2 * place - 1) for epochs in found["lengths"]]
        axes.errorbar(
            places,
            top1,
            yerr=[[max(0.0, value) for value in end] for end in (low, high)],
            color=style.color,
            marker=style.marker,
            markersize=8,
            linewidth=2.4,
            elinewidth=1.4,
            capsize=5,
            label=f"{arm['arm']}, 95% interval over {_taken_over(own)}",
        )
        if arm["n"] > 1:
            for one, epochs in zip(own, places, strict=True):
                seeds = [run["top1"] for run in one["runs"]]
                axes.scatter(
                    [epochs] * len(seeds), seeds, color=style.color, s=14, alpha=0.5, zorder=3
                )
    _finish(axes, f"Here: {found['dataset']}, {found['model']}, {found['mode']}", found["lengths"])


def _taken_over(arms: Sequence[Mapping[str, Any]]) -> str:
    """Return what the intervals of an arm are taken over: seeds, test images, or both."""
    return " or ".join(dict.fromkeys(arm["ci_method"].rpartition("over ")[2] for arm in arms))


def _draw_paper(axes: Any, family: str) -> None:
    for arm, by_epochs in PAPER_POINTS[family].items():
        style = ARM_STYLES[arm]
        axes.plot(
            list(by_epochs),
            list(by_epochs.values()),
            color=style.color,
            marker=style.marker,
            markersize=8,
            markerfacecolor="white",
            markeredgewidth=2,
            linewidth=1.6,
            linestyle=(0, (6, 4)),
            label=arm,
        )
        for epochs, top1 in by_epochs.items():
            axes.annotate(
                f"{top1:.1f}",
                (epochs, top1),
                textcoords="offset points",
                xytext=(0, 10),
                ha="center",
                color=INK,
            )
    axes.axvline(
        PAPER_SATURATION,
        color=ARM_STYLES["plain"].color,
        linewidth=1,
        linestyle=":",
        label="plain stops gaining (Figure 3)",
    )
    axes.margins(0.22, 0.3)
    _finish(axes, f"The paper: ImageNet, {family}", (300, 400, 1000))


def _finish(axes: Any, title: str, ticks: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    dress(axes, title=title, x="epochs (log scale)", y="top-1 on test (%)")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))
