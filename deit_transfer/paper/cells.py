"""A table of the paper with our values beside it: cells, labels and commands."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from deit_transfer.analysis.statistics import mean_interval
from deit_transfer.paper.evidence import FoundRun, run_label
from deit_transfer.paper.values import PaperTable, PaperValue

Commands = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One value of ours or, where it is missing, the commands that produce it.

    `label` says what the figure is of; `short` that it is of a run far from the paper's.
    """

    value: PaperValue = None
    label: str = ""
    short: bool = False
    runs: tuple[str, ...] = ()
    commands: Commands = ()


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """The paper's values of a row and ours, one per column; None where there is no row.

    A cell of ours that is None can be filled by nothing, or only by `commands`, which fill all of
    the row's missing cells at once.
    """

    name: str
    paper: Sequence[PaperValue] | None
    here: Sequence[TableCell | None] | None
    commands: Commands = ()


Filled = tuple[list[TableRow], list[str], list[str]]  # rows, columns after the paper's, notes


def accuracy_cell(
    runs: Iterable[FoundRun],
    *,
    commands: Commands = (),
    value: Callable[[FoundRun], float | None] = lambda run: run.result.get("top1"),
) -> TableCell:
    """Return the mean figure of the runs that come closest to the paper's, over their seeds.

    Runs that differ in their seed alone are one group; a group of full length goes before a short
    one, then the one that saw more images.

    Args:
        runs: Those that belong in this cell.
        commands: What makes a run for it.
        value: The figure of a run, in percent; None where it has none.
    """
    groups: dict[str, list[FoundRun]] = {}
    for run in runs:
        if value(run) is not None:
            groups.setdefault(_but_seed(run), []).append(run)
    if not groups:
        return TableCell(commands=commands)
    best = max(groups.values(), key=lambda group: (not group[0].is_short, _images(group[0])))
    figures = [figure for run in best if (figure := value(run)) is not None]
    interval = mean_interval(figures)
    spread = "" if interval is None else f"95% interval {interval.low:.1f} to {interval.high:.1f}"
    return TableCell(
        value=sum(figures) / len(figures),
        label=run_label(best, interval=spread),
        short=best[0].is_short,
        runs=tuple(str(run.folder) for run in best),
    )


def filled_table(
    table: PaperTable, rows: Sequence[TableRow], *, columns: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    """Return the table as plain values: rows, what each figure of ours is of, and commands.

    Args:
        table: The paper's.
        rows: In the order shown.
        columns: The paper's columns, and any of ours after them.
        notes: What else a reader must know.
    """
    marks = _Numbered()
    tasks = _Numbered()
    shown = []
    for row in rows:
        cells = None if row.here is None else [_plain(c, marks, tasks) for c in row.here]
        shown.append({"name": row.name, "paper": _values(row.paper), "here": cells})
        for column, cell in zip(columns, row.here or (), strict=False):
            if cell is not None and cell.commands:
                tasks.use(cell.commands, (row.name, column))
        if row.commands:
            tasks.use(row.commands, (row.name, None))
    return {
        "table": table.key,
        "title": table.title,
        "unit": table.unit,
        "source": table.source,
        "columns": list(columns),
        "rows": shown,
        "labels": [
            {"mark": letters(number), "text": text} for text, (number, _) in marks.found.items()
        ],
        "commands": [
            {
                "number": number,
                "cells": [{"row": row, "column": column} for row, column in cells],
                "commands": list(commands),
            }
            for commands, (number, cells) in tasks.found.items()
        ],
        "notes": [*table.notes, *notes],
    }


def letters(number: int) -> str:
    """Return the mark of a label, from 1: a to z, then aa, ab, ..."""
    text = ""
    while number:
        number, place = divmod(number - 1, len(ascii_lowercase))
        text = ascii_lowercase[place] + text
    return text


class _Numbered:
    """Numbers each new item, and remembers where it is used."""

    def __init__(self) -> None:
        self.found: dict[Any, tuple[int, list[tuple[str, str | None]]]] = {}

    def use(self, thing: Any, where: tuple[str, str | None] | None = None) -> int:
        number, places = self.found.setdefault(thing, (len(self.found) + 1, []))
        if where is not None:
            places.append(where)
        return number


def _plain(cell: TableCell | None, marks: _Numbered, tasks: _Numbered) -> dict[str, Any] | None:
    if cell is None:
        return None
    if cell.value is None:
        return {"value": None, "fill": tasks.use(cell.commands)} if cell.commands else None
    mark = letters(marks.use(cell.label)) if cell.label else ""
    return {
        "value": cell.value,
        "mark": mark,
        "short": cell.short,
        "runs": list(cell.runs),
    }


def _values(values: Sequence[PaperValue] | None) -> list[PaperValue] | None:
    return None if values is None else list(values)


def _images(run: FoundRun) -> float:
    return float(run.result.get("images_seen") or 0)


def _but_seed(run: FoundRun) -> str:
    """Return what runs share that differ in their seed, and where they were computed, alone."""
    settings = run.recipe.model_dump(mode="json", exclude={"title", "evidence", "sources", "run"})
    return json.dumps([settings, run.result.get("images_seen")], sort_keys=True)
