"""Show several datasets side by side: the paper's Table 6 with ours.

Reads the object that `run.several.compare_datasets` returns; decides nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from deit_transfer.report.comparison import verdict
from deit_transfer.report.label_efficiency import interval_cell
from deit_transfer.report.number_format import percent
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table

Row = Mapping[str, Any]

# columns that fit beside the arms in 80 characters
DATASETS_A_TABLE = 4


def datasets_table(table: Mapping[str, Any]) -> Screen:
    """Return one row an arm and one column a dataset, each arm with the paper's row below it.

    Args:
        table: `datasets` (names, in order), `rows` (each `arm`, `whose`, which is `ours` or
            `paper`, and `cells` by dataset: as `comparison_table` takes an arm, or of the paper
            `top1` and `label`), `comparisons`, `failed` (each `dataset`, `error`, `hint`),
            `labels`.
    """
    return Screen(lambda terminal: _screen(table, terminal))


def sentences(failure: Mapping[str, Any]) -> str:
    """Return why a dataset failed, and what to do about it."""
    return f"{failure['error'].rstrip('.')}. {failure['hint']}".strip()


def row_title(row: Row) -> str:
    """Return what a row is called; the paper's are called so."""
    return f"the paper, {row['arm']}" if row["whose"] == "paper" else str(row["arm"])


def row_cell(row: Row, dataset: str, *, plus_minus: str) -> str:
    """Return one figure, ours with its interval, or a dash where there is none."""
    cell = row["cells"].get(dataset)
    if cell is None:
        return "-"
    if row["whose"] == "paper":
        return percent(cell["top1"])
    return interval_cell(cell, plus_minus=plus_minus)


def _screen(table: Mapping[str, Any], terminal: TerminalStyle) -> RenderableType:
    names = table["datasets"]
    groups = [names[i : i + DATASETS_A_TABLE] for i in range(0, len(names), DATASETS_A_TABLE)]
    answers = [
        terminal.text(f"{one['dataset']}: {verdict(one)}", style="green")
        for one in table["comparisons"]
    ]
    failures = [
        terminal.text(f"{one['dataset']} failed: {sentences(one)}", style="bold red")
        for one in table["failed"]
    ]
    notes = [terminal.text(f"* {note}", style="dim") for note in table["labels"]]
    tables = [_table(table["rows"], group, terminal) for group in groups]
    return Group(*tables, *answers, *failures, *notes)


def _table(rows: Sequence[Row], names: Sequence[str], terminal: TerminalStyle) -> RenderableType:
    table = new_table(terminal, "Top-1 in percent, with 95% intervals, as in the paper's Table 6")
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(terminal.text(name), overflow="fold")
    for row in rows:
        cells = [
            terminal.text(row_cell(row, name, plus_minus=terminal.plus_minus)) for name in names
        ]
        style = "dim" if row["whose"] == "paper" else ""
        table.add_row(terminal.text(row_title(row).replace("/", " /")), *cells, style=style)
    return table
