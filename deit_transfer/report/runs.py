"""Show earlier runs: one line each in a list, or everything about one."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from deit_transfer.report.listings import load_report_table
from deit_transfer.report.number_format import NOTHING, counts_text, percent
from deit_transfer.report.result import result_table
from deit_transfer.report.terminal_style import Screen, TerminalStyle, facts_table, new_table
from deit_transfer.report.training_table import epoch_columns, epoch_header, epoch_row

Row = Mapping[str, Any]

# the last epochs tell how a run ended; all of them are in its metrics file
SHOWN_EPOCHS = 40


def runs_table(rows: Sequence[Row]) -> Screen:
    """Return the runs of a folder: one row each, at most 80 columns.

    Args:
        rows: Each `run` (name) and `state` (running, killed, done, stopped, failed, damaged); and,
            each None until the run has a result, `mode`, `model`, `dataset`, `start`, `seed`,
            `top1`; `problem` is what is wrong with a damaged one.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        if not rows:
            return terminal.text("There are no runs here.")
        table = new_table(terminal, "")
        table.add_column("run", overflow="fold")
        for title in ("seed", "top-1"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for row in rows:
            seed = row.get("seed")
            table.add_row(
                terminal.lines(line for line in (row["run"], _what_ran(row)) if line),
                NOTHING if seed is None else str(seed),
                percent(row.get("top1"), digits=2),
                terminal.text(row.get("state") or NOTHING),
            )
        return table

    return Screen(build)


def run_screens(facts: Row) -> list[Screen]:
    """Return all that is known of one run: result, epochs, start, data, environment.

    Args:
        facts: `run`; `status` with `state`, `detail`, `time`; `result` as `result_table` takes
            it; `epochs`, records as `epoch_row` takes them; `start` with `start`, `origin` and
            what `load_report_table` takes; `data` and `environment`, label and value, the latter
            with `command`, a list of words. Each may be empty.
    """
    start = facts.get("pretrained") or {}
    screens = [
        Screen(lambda terminal: facts_table(terminal, f"Run: {facts['run']}", _status(facts)))
    ]
    if facts.get("result"):
        screens.append(result_table(facts["result"]))
    if facts.get("epochs"):
        screens.append(Screen(lambda terminal: _epochs(terminal, facts["epochs"])))
    if start.get("items"):
        screens.append(load_report_table(start))
    if facts.get("environment"):
        groups = [_plain_facts(facts["environment"])]
        screens.append(Screen(lambda terminal: facts_table(terminal, "Environment", groups)))
    return screens


def _what_ran(row: Row) -> str:
    said = [str(row[key]) for key in ("mode", "model") if row.get(key)]
    said += [f"on {row['dataset']}"] if row.get("dataset") else []
    start = row.get("pretrained")
    return " ".join([*said, f"from {start}"] if start and start != "none" else said)


def _status(facts: Row) -> list[list[tuple[str, RenderableType]]]:
    status, data, start = (facts.get(key) or {} for key in ("status", "data", "pretrained"))
    state = [status.get("state") or "unknown", status.get("detail"), status.get("time")]
    return [
        [("state", ", ".join(str(part) for part in state if part))],
        _plain_facts({key: start.get(key) for key in ("pretrained", "origin")}),
        _plain_facts({key: value for key, value in data.items() if key != "counts"}),
        [("images", counts_text(data["counts"]))] if data.get("counts") else [],
    ]


def _epochs(terminal: TerminalStyle, records: Sequence[Row]) -> RenderableType:
    last = records[-1]
    columns = epoch_columns(
        distilled="heads" in last, ema="ema_top1" in last, taught="teacher_agreement" in last
    )
    lines = [epoch_header(columns), *(epoch_row(one, columns) for one in records[-SHOWN_EPOCHS:])]
    left_out = len(records) - SHOWN_EPOCHS
    before = [terminal.text(f"{left_out} earlier epochs are in the metrics file")] * (left_out > 0)
    return Group(*before, *(terminal.text(line) for line in lines))


def _plain_facts(values: Row) -> list[tuple[str, RenderableType]]:
    return [
        (str(label), text)
        for label, value in values.items()
        if (text := shlex.join(value) if label == "command" else _plain_value(value))
    ]


def _plain_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items() if part is not None)
    if isinstance(value, list | tuple):
        return "; ".join(str(part) for part in value)
    return "" if value is None else str(value)
