"""Show throughput: the table, and accuracy against throughput as a plot."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deit_transfer.report.number_format import NOTHING, compact, counted, grouped
from deit_transfer.report.plot_style import INK, STYLES, drawn_png, dress, log_speeds
from deit_transfer.report.terminal_style import Screen, TerminalStyle, facts_table, new_table

Facts = Mapping[str, Any]

UNSTEADY = 0.1  # share of the mean; a guess: an idle machine stays well below it


def throughput_screen(facts: Facts) -> Screen:
    """Return the speeds, what they cost, the paper's beside them, and on what they were measured.

    Args:
        facts: `models`, each `name`, `images_per_second`, `images_per_second_sd`, `batch_size`,
            `batch_chosen`, `precision`, `resolution`, `params`, `gflops`, `peak_memory_mb`,
            `peak_memory_of`, `repeats`, `paper_name`, `paper_images_per_second`, `accuracies`;
            and `hardware`, `device`, `cores`, `threads`, `versions`, `warmup_runs`, `convention`,
            `figure`.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        models = facts["models"]
        parts: list[RenderableType] = [_speeds(models, terminal)]
        if any(one["accuracies"] for one in models):
            parts += _accuracies(models, terminal)
        return Group(*parts, facts_table(terminal, "", [_notes(facts)]))

    return Screen(build)


def throughput_png(path: Path, facts: Facts) -> None:
    """Draw the accuracy of runs against the speed of their networks, a color a dataset.

    Args:
        path: The PNG.
        facts: As `throughput_screen` takes them, with at least one accuracy.

    Raises:
        ValueError: There is no accuracy to draw.
    """
    points: dict[str, list[tuple[float, float, float, str]]] = {}
    for model in facts["models"]:
        for found in model["accuracies"]:
            point = (
                model["images_per_second"],
                model["images_per_second_sd"],
                found["top1"],
                f"{model['model']}, {model['resolution']} px, {found['mode']}",
            )
            points.setdefault(found["dataset"], []).append(point)
    if not points:
        raise ValueError("a plot needs at least one accuracy")

    every = [speed for found in points.values() for speed, *_ in found]

    import numpy as np

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (dataset, found), style in zip(points.items(), STYLES * len(points), strict=False):
            speeds, spreads, top1s, names = zip(*found, strict=True)
            axes.errorbar(
                speeds,
                top1s,
                # a log axis has no room for a bar that would reach 0
                xerr=(np.minimum(spreads, 0.9 * np.array(speeds)), spreads),
                fmt=style.marker,
                color=style.color,
                markersize=9,
                capsize=3,
                label=dataset,
            )
            for speed, top1, name in zip(speeds, top1s, names, strict=True):
                fast = speed**2 > min(every) * max(every)  # right of the middle
                axes.annotate(
                    name,
                    (speed, top1),
                    xytext=(-8 if fast else 8, 9),
                    ha="right" if fast else "left",
                    textcoords="offset points",
                    fontsize=10,
                    color=INK,
                    parse_math=False,
                )
        title = f"Accuracy against throughput, {facts['hardware']}, {facts['device']}"
        dress(axes, title=title, x="images a second (log scale)", y="top-1 on test (%)")
        log_speeds(axes, every)
        axes.margins(y=0.15)
        axes.legend(frameon=False, loc="best")

    drawn_png(path, draw, size=(10, 6))


def _speeds(models: Sequence[Facts], terminal: TerminalStyle) -> Table:
    table = new_table(terminal, "Throughput: images a second, forward pass")
    table.add_column("network", overflow="fold")
    for title in ("img/s here", "paper,\nV100", "batch", "params", "GFLOPs", "memory\nMB"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in models:
        speed = f"{_speed(one['images_per_second'])} {terminal.plus_minus} "
        speed += _speed(one["images_per_second_sd"])
        paper = one["paper_images_per_second"]
        table.add_row(
            terminal.lines([one["name"], f"{one['resolution']} px, {one['precision']}"]),
            terminal.text(speed),
            NOTHING if paper is None else f"{paper:,.1f}",
            str(one["batch_size"]),
            compact(one["params"]),
            f"{one['gflops']:.2f}",
            grouped(one["peak_memory_mb"]),
        )
    return table


def _accuracies(models: Sequence[Facts], terminal: TerminalStyle) -> Iterator[Text]:
    yield terminal.text("Accuracy of the runs of these networks", style="bold")
    for one in models:
        for found in one["accuracies"]:
            what = f"{found['top1']:.1f} top-1 on {found['dataset']} ({found['mode']})"
            yield terminal.text(f"{one['name']}: {what}: {found['label']}")


def _notes(facts: Facts) -> list[tuple[str, RenderableType]]:
    models = facts["models"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    chosen = "; ".join(dict.fromkeys(one["batch_chosen"] for one in models))
    memory = "; ".join(dict.fromkeys(one["peak_memory_of"] for one in models))
    repeats = counted(models[0]["repeats"], "run")
    runs = f"mean and standard deviation of {repeats} after {facts['warmup_runs']} warm-ups"
    notes: list[tuple[str, RenderableType]] = [
        ("here", f"{facts['hardware']}, {facts['device']}, {_threads(facts)}, {versions}"),
        ("img/s", runs),
        ("batch", chosen),
        ("memory", f"the most in use by {memory}"),
        ("GFLOPs", facts["convention"].removeprefix("gflops: ")),
    ]
    if any(one["paper_name"] for one in models):
        notes.append(("paper", "another machine: one 16 GB V100 (ICML 2021, Table 5)"))
    unsteady = [
        one["name"]
        for one in models
        if one["images_per_second_sd"] > UNSTEADY * one["images_per_second"]
    ]
    if unsteady:
        said = "the runs differ much from each other: other work was on the machine; measure again"
        notes.append(("unsteady", f"{', '.join(unsteady)}: {said}"))
    if facts["against"] and not facts["figure"]:
        notes.append(("figure", f"none: no run of these networks in {facts['against']}"))
    if facts["figure"]:
        notes.append(("figure", facts["figure"]))
    return notes


def _threads(facts: Facts) -> str:
    threads = facts["threads"]
    return f"{threads} of {facts['cores']} cores"


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
