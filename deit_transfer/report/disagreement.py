"""Show disagreement: the matrix, its pairs, the heat map, and the paper's Table 4.

Reads the object that `analysis.disagreement.disagreement` returns; tests nothing itself.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from deit_transfer.report.number_format import grouped, p_text
from deit_transfer.report.plot_style import DPI, INK, drawn_png
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table

Facts = Mapping[str, Any]
Matrix = tuple[Sequence[str], Sequence[Sequence[float]]]  # names, and the rate of each pair

PAPER_TITLE = "The paper's Table 4, with ImageNet val"
WIDTH, RATE_WIDTH = 80, 8  # columns of a screen, and of a rate with its padding and line
COLUMNS_ABREAST = 6  # as many rates as leave room for names
CELL_INCHES = 0.82
LABEL_LETTERS = 28


def disagreement_table(facts: Facts, *, paper: Matrix) -> Screen:
    """Return the matrix, every pair with its interval and test, and the paper's matrix.

    Args:
        facts: `dataset`, `names` (ground truth first), `matrix` and `intervals` of rates 0..1,
            `tests` (each `a`, `b`, `error_difference`, `error_difference_ci95`, `p_value`),
            `num_images`, `notes`.
        paper: The paper's Table 4, from `paper.values.paper_matrix`.
    """
    return Screen(lambda terminal: _screen(facts, paper, terminal))


def heat_map_png(path: Path, facts: Facts, *, dataset: str, paper: Matrix) -> None:
    """Draw the matrix beside the paper's, and write the PNG whole.

    Args:
        path: Where the PNG appears, or is replaced; its folder is made.
        facts: As in `disagreement_table`.
        dataset: What the images are called.
        paper: As in `disagreement_table`.

    Raises:
        ResourceError: The disk is full.
    """
    names, (paper_names, paper_rates) = list(facts["names"]), paper
    sides = [len(names), len(paper_names)]

    def draw(figure: Any) -> None:
        ours, papers = figure.subplots(1, 2, width_ratios=sides)
        heading = "Share of images that two classifiers decide differently"
        figure.suptitle(heading, fontsize=15, fontweight="bold", color=INK)
        title = f"{dataset}\n{facts['num_images']:,} test images"
        _draw(ours, names, facts["matrix"], title=title)
        _draw(papers, paper_names, paper_rates, title=PAPER_TITLE.replace(", ", "\n"))

    size = (CELL_INCHES * sum(sides) + 5.4, CELL_INCHES * max(sides) + 2)
    drawn_png(path, draw, size=size, dpi=DPI // 2)


def extremes(facts: Facts) -> str:
    """Return a sentence on the most and the least similar pair; empty for fewer than three."""
    names, matrix = facts["names"], facts["matrix"]
    pairs = [(matrix[a][b], names[a], names[b]) for a, b in combinations(range(len(names)), 2) if a]
    if len(pairs) < 2:
        return ""
    (low, *alike), (high, *apart) = min(pairs), max(pairs)
    return (
        f"Most alike are {' and '.join(alike)} (rate {low:.3f}), "
        f"least {' and '.join(apart)} ({high:.3f})."
    )


def _screen(facts: Facts, paper: Matrix, terminal: TerminalStyle) -> RenderableType:
    title = (
        f"Rate of different decisions on {facts['dataset']}, "
        f"{grouped(facts['num_images'])} test images"
    )
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note in [*facts.get("notes", []), *_footnotes(facts)]:
        notes.add_row("*", terminal.text(note, style="dim"))
    sentence = extremes(facts)
    return Group(
        *_matrix_tables(title, facts["names"], facts["matrix"], terminal),
        _pairs_table(facts, terminal),
        *([terminal.text(sentence, style="bold green")] if sentence else []),
        notes,
        *_matrix_tables(PAPER_TITLE, *paper, terminal),
    )


def _footnotes(facts: Facts) -> list[str]:
    notes = ["intervals: 95%, bootstrap over images; other seeds would differ by more"]
    if facts["tests"]:
        method = facts["tests"][0]["method"]
        count = len(facts["tests"])
        several = f"; {count} tests, p-values not corrected for their number" if count > 1 else ""
        notes.append(f"error: first minus second, in points, {method}{several}")
    return notes


def _matrix_tables(
    title: str, names: Sequence[str], matrix: Sequence[Sequence[float]], terminal: TerminalStyle
) -> list[RenderableType]:
    """Return the matrix as the paper prints it, in blocks of numbered columns that fit."""
    tables: list[RenderableType] = [terminal.text(title, style="bold")]
    count = len(names) - 1
    abreast = -(-count // -(-count // COLUMNS_ABREAST))  # blocks of nearly one size
    for first in range(1, len(names), abreast):
        shown = range(first, min(first + abreast, len(names)))
        table = new_table(terminal, "")
        table.add_column("", overflow="fold", max_width=WIDTH - 4 - RATE_WIDTH * len(shown))
        for column in shown:
            table.add_column(str(column), justify="right", no_wrap=True)
        for row, name in enumerate(names):
            label = f"{row} {name}" if row else name
            table.add_row(terminal.text(label), *(f"{matrix[row][column]:.3f}" for column in shown))
        tables.append(table)
    return tables


def _pairs_table(facts: Facts, terminal: TerminalStyle) -> Table:
    names, matrix, intervals = facts["names"], facts["matrix"], facts["intervals"]
    tests = {frozenset((test["a"], test["b"])): test for test in facts["tests"]}
    table = new_table(terminal, "Pairs, by number")
    table.add_column("pair", no_wrap=True)
    for name in ("differ", "95% interval", "error", "95% interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for a, b in combinations(range(len(names)), 2):
        low, high = intervals[a][b]
        pair = f"{a}, {b}" if a else f"truth, {b}"
        test = tests.get(frozenset((names[a], names[b])))
        table.add_row(pair, f"{matrix[a][b]:.3f}", f"{low:.3f} to {high:.3f}", *_test_cells(test))
    return table


def _test_cells(test: Mapping[str, Any] | None) -> list[str]:
    if test is None:
        return ["", "", ""]
    low, high = (100 * end for end in test["error_difference_ci95"])
    p_value = p_text(test["p_value"]).removeprefix("p ").removeprefix("= ")
    return [f"{100 * test['error_difference']:+.2f}", f"{low:+.2f} to {high:+.2f}", p_value]


def _draw(
    axes: Any, names: Sequence[str], matrix: Sequence[Sequence[float]], *, title: str
) -> None:
    """Draw one matrix, each cell with its rate; a darker cell is a larger one."""
    largest = max(max(row) for row in matrix) or 1.0
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=largest)
    for row, rates in enumerate(matrix):
        for column, rate in enumerate(rates):
            color = "white" if rate > 0.5 * largest else INK
            text = f"{rate:.3f}" if row != column else "0"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=12)
    places = range(len(names))
    axes.set_xticks(places, ["truth", *map(str, places[1:])])
    axes.set_yticks(places, [_row_label(row, name) for row, name in enumerate(names)])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.axhline(0.5, color="white", linewidth=3)
    axes.axvline(0.5, color="white", linewidth=3)
    axes.set_title(title, loc="left", color=INK, parse_math=False, fontsize=13)


def _row_label(row: int, name: str) -> str:
    """Return a name with its number, in lines short enough for the margin."""
    return "\n".join(textwrap.wrap(f"{row} {name}" if row else name, LABEL_LETTERS))
