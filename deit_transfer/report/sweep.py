"""Show a sweep: one table, the winner, and its test accuracy apart.

Reads the object that `run.sweep` returns; chooses nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from deit_transfer.report.number_format import NOTHING, counted, duration, percent
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table, printable

Sweep = Mapping[str, Any]
Row = Mapping[str, Any]

# more settings than this stand in one column, or the table is wider than a screen
MOST_COLUMNS = 4
RANKED = "trials"


def sweep_table(sweep: Sweep) -> Screen:
    """Return the trials, the winner, and what a reader must know.

    Args:
        sweep: `dataset`, `mode`, `model`, `by` (grid, trials or recipes), `varied` (dotted
            locations), `trials` (each `trial`, `settings`, `recipe`, `state`, `val_top1`,
            `minutes`, `run`, `reason`; by recipes also `delta`, `delta_ci95`, `paper`),
            `winner` (None, or `trial`, `val_top1`, `val_top1_ci95`, `test_top1`,
            `test_top1_ci95`, `run`), `num_val_images`, `num_test_images`, `labels`.
    """
    return Screen(lambda terminal: _screen(sweep, terminal))


def sweep_markdown(sweep: Sweep, *, command: str) -> str:
    """Return the sweep as one Markdown page.

    Args:
        sweep: As `sweep_table` takes it.
        command: What was typed, so that it can be typed again.
    """
    titles, rows = _cells(sweep)
    lines = [titles, ["---", *("---:" for _ in titles[1:])], *rows]
    table = "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)
    parts = [
        f"# {_title(sweep)}",
        "\n\n".join(printable(line) for line in _winner_lines(sweep)),
        table,
        "\n".join(f"- {printable(note)}" for note in _notes(sweep)),
        f"```sh\n{printable(command)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def setting_names(locations: Sequence[str]) -> dict[str, str]:
    """Return a short name for each setting: its last part, where that is no other's."""
    last = [location.rpartition(".")[2] for location in locations]
    return {
        location: short if last.count(short) == 1 else location
        for location, short in zip(locations, last, strict=True)
    }


def _screen(sweep: Sweep, terminal: TerminalStyle) -> RenderableType:
    answer = [terminal.text(line, style="bold green") for line in _winner_lines(sweep)]
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note in _notes(sweep):
        notes.add_row("*", terminal.text(note, style="dim"))
    # above the table, which may be too narrow to be its title's measure
    title = terminal.text(_title(sweep), style="bold")
    return Group(title, _table(sweep, terminal), *answer, notes)


def _table(sweep: Sweep, terminal: TerminalStyle) -> Table:
    table = new_table(terminal, "")
    titles, rows = _cells(sweep)
    for place, title in enumerate(titles):
        folds = title in ("recipe", "settings")
        right = place > 0 and not folds
        table.add_column(
            title, justify="right" if right else "left", no_wrap=not folds, overflow="fold"
        )
    winner = (sweep["winner"] or {}).get("trial")
    for row, cells in zip(_ordered(sweep), rows, strict=True):
        style = "bold" if row["trial"] == winner else ""
        table.add_row(*(terminal.lines(cell.split("\n")) for cell in cells), style=style)
    return table


def _title(sweep: Sweep) -> str:
    trials = counted(len(sweep["trials"]), "trial")
    return (
        f"{sweep['dataset']}, {sweep['model']}, {sweep['mode']}: {trials}, chosen on "
        f"{counted(sweep['num_val_images'], 'validation image')}"
    )


def _cells(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Return the table's titles and, for each trial in the order shown, its cells."""
    build = _recipe_cells if sweep["by"] == "recipes" else _setting_cells
    return build(sweep)


def _setting_cells(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    names = setting_names(sweep["varied"])
    apart = len(names) <= MOST_COLUMNS
    titles = ["trial", *(names.values() if apart else ["settings"])]
    rows = []
    for row in _ordered(sweep):
        shown = {names[key]: _value(value) for key, value in row["settings"].items()}
        together = [" ".join(f"{name}={value}" for name, value in shown.items())]
        rows.append(
            [
                str(row["trial"]),
                *(shown.values() if apart else together),
                percent(row["val_top1"]),
                _state(row, sweep),
                _time(row),
            ]
        )
    return [*titles, "val top-1", "state", "time"], rows


def _recipe_cells(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    with_paper = any(row.get("paper") for row in sweep["trials"])
    titles = ["recipe", "val top-1", f"- {sweep['default']}", "time"]
    rows = []
    for row in _ordered(sweep):
        finished = row["state"] == "done"
        cells = [row["recipe"], percent(row["val_top1"]) if finished else row["state"]]
        cells += [_difference(row), _time(row)]
        paper = " / ".join(percent(figure) for figure in row.get("paper") or ()) or NOTHING
        rows.append(cells + [paper] * with_paper)
    return titles + ["paper,\nImageNet\n224 / 384"] * with_paper, rows


def _difference(row: Row) -> str:
    if row.get("delta") is None:
        return NOTHING
    low, high = row["delta_ci95"]
    return f"{row['delta']:+.1f}\n[{low:+.1f}, {high:+.1f}]"


def _ordered(sweep: Sweep) -> Iterator[Row]:
    """Return the trials: those that were searched for best first, others as they were asked."""
    rows = sweep["trials"]
    if sweep["by"] != RANKED:
        return iter(rows)
    return iter(sorted(rows, key=lambda row: (row["state"] != "done", -(row["val_top1"] or 0.0))))


def _state(row: Row, sweep: Sweep) -> str:
    winner = sweep["winner"]
    if row["state"] == "pruned":
        return f"pruned at {row['epoch']}/{row['epochs']}"
    return "winner" if winner and row["trial"] == winner["trial"] else row["state"]


def _time(row: Row) -> str:
    return NOTHING if row["minutes"] is None else duration(60 * row["minutes"])


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _winner_lines(sweep: Sweep) -> list[str]:
    winner = sweep["winner"]
    if winner is None:
        return ["No trial finished: there is no winner."]
    low, high = winner["val_top1_ci95"]
    test_low, test_high = winner["test_top1_ci95"]
    return [
        f"Winner: {_called(winner)}, {percent(winner['val_top1'])}% on validation "
        f"(95% interval {percent(low)} to {percent(high)}).",
        f"Its test top-1, which had no part in the choice: {percent(winner['test_top1'])}% on "
        f"{counted(sweep['num_test_images'], 'image')} "
        f"(95% interval {percent(test_low)} to {percent(test_high)}).",
    ]


def _called(row: Row) -> str:
    if row["recipe"] is not None:
        return str(row["recipe"])
    settings = " ".join(f"{name}={_value(value)}" for name, value in row["settings"].items())
    return f"trial {row['trial']}, {settings}"


def _notes(sweep: Sweep) -> list[str]:
    notes = list(sweep["labels"])
    reused = sum(bool(row["reused"]) for row in sweep["trials"])
    if reused:
        notes.append(f"reused: {reused} of {counted(len(sweep['trials']), 'trial')}")
    pruned = [row for row in sweep["trials"] if row["state"] == "pruned"]
    if pruned:
        many = "1 trial was" if len(pruned) == 1 else f"{len(pruned)} trials were"
        notes.append(f"{many} given up early, and shown with the best epoch until then")
    notes += [
        f"{_called(row)}: {row['reason']}"
        for row in sweep["trials"]
        if row["reason"] and row not in pruned
    ]
    if any(row.get("paper") for row in sweep["trials"]):
        notes.append(
            "the paper's figures (Table 7, Touvron et al., ICML 2021) are of DeiT-B on ImageNet, "
            "300 epochs: trained at 224 pixels / fine-tuned at 384"
        )
    if sweep["winner"] is not None:
        notes.append(f"the winner's run: {sweep['winner']['run']}")
    return notes


def _cell(text: str) -> str:
    return printable(text.replace("\n", " ")).replace("|", "\\|")
