"""Show a table of the paper on the terminal: its values, ours, and the missing commands.

Reads the object that `run.paper.tables.paper_table` returns. Everything fits 80 columns.
"""

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deit_transfer.report.number_format import NOTHING
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table, printable

WIDTH = 80
LEAST_NAME_WIDTH = 12
SHORT_NOTE = "far from the paper's run, in data, length or images: no reproduction of its value"
# heads of columns that leave no room for eight of them
NARROW = {
    "ImageNet": "Image\nNet",
    "CIFAR-10": "CIFAR\n-10",
    "CIFAR-100": "CIFAR\n-100",
    "Flowers": "Flow-\ners",
    "iNat-18": "iNat\n-18",
    "iNat-19": "iNat\n-19",
}
MANY_COLUMNS = 7
DIGITS = {"table4": 3}
# words that a line must not end with
LEADING = (">", "do", "deit-transfer")
# like rich's own SIMPLE_HEAD, with columns one blank apart
OPEN = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
OPEN_ASCII = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def table_list(rows: Sequence[Mapping[str, str]]) -> Screen:
    """Return the tables there are: one line each, and the command that makes ours.

    Args:
        rows: Each `table`, `title`, `made_by`.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        table = new_table(terminal, "")
        table.add_column("table", no_wrap=True)
        table.add_column("what", min_width=30)
        table.add_column("made here by deit-transfer", overflow="fold")
        for row in rows:
            table.add_row(*(terminal.text(row[key]) for key in ("table", "title", "made_by")))
        hint = "deit-transfer paper table6 prints one, with what was measured here beside it."
        return Group(table, terminal.text(hint))

    return Screen(build)


def filled_screen(facts: Mapping[str, Any]) -> Screen:
    """Return one table: the paper's lines, ours, what ours are of, and the missing commands.

    Args:
        facts: `table`, `title`, `unit`, `source`, `columns`, `rows` (each `name`, `paper`, `here`:
            None, or a value a column; ours are None, or `value` with `mark` and `short`, or
            `fill`, the number of what fills it), `labels`, `commands`, `notes`, `runs`,
            `num_runs`, `figure`.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        return Group(
            *_head(facts, terminal),
            _table(facts, terminal),
            *(_hanging(sign, text, terminal) for sign, text in _legend(facts)),
            *_commands(facts, terminal),
        )

    return Screen(build)


def command_lines(commands: Sequence[str], *, width: int) -> list[str]:
    """Return commands one after the other, broken so that a shell reads them as they are."""
    lines: list[str] = []
    for number, command in enumerate(commands):
        end = " && \\" if number < len(commands) - 1 else ""
        wrapped = list(_broken(command, width - len(end)))
        lines += [*(f"{line} \\" for line in wrapped[:-1]), f"{wrapped[-1]}{end}"]
    return lines


def _head(facts: Mapping[str, Any], terminal: TerminalStyle) -> Iterator[Text]:
    number = f"{facts['table'][:-1].capitalize()} {facts['table'][-1]}"
    yield terminal.text(f"{number}: {facts['title']}", style="bold")
    yield terminal.text(facts["unit"])
    runs = "1 finished run" if facts["num_runs"] == 1 else f"{facts['num_runs']} finished runs"
    yield terminal.text(f"paper: {facts['source']}")
    yield terminal.text(f"here:  this machine, {runs} in {facts['runs']}")


def _table(facts: Mapping[str, Any], terminal: TerminalStyle) -> Table:
    heads = [_heading(title, len(facts["columns"])) for title in facts["columns"]]
    lines = list(_lines(facts))
    # names take what the figures leave, and are folded where that is too little
    widths = [
        max(len(text) for text in (*head.split("\n"), *(line[2][place].plain for line in lines)))
        for place, head in enumerate(heads)
    ]
    room = WIDTH - len(" paper") - sum(width + 1 for width in widths)
    longest = max(len(row["name"]) for row in facts["rows"])
    table = Table(
        box=OPEN_ASCII if terminal.box is box.ASCII else OPEN,
        padding=(0, 0),
        show_edge=False,
        header_style="",
    )
    table.add_column("", width=max(LEAST_NAME_WIDTH, min(longest, room)), overflow="fold")
    table.add_column("whose", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name, whose, cells in lines:
        table.add_row(terminal.text(name), whose, *cells, style="bold" if whose == "here" else "")
    return table


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Text]]]:
    """Return each line: its name (empty where the line above has it), whose it is, its cells."""
    digits = DIGITS.get(facts["table"], 1)
    num_columns = len(facts["columns"])
    for row in facts["rows"]:
        name = row["name"]
        if row["paper"] is not None:
            cells = [Text(_paper_text(value, digits)) for value in row["paper"]]
            # columns of ours stand after the paper's
            yield name, "paper", cells + [Text("")] * (num_columns - len(cells))
            name = ""
        if row["here"] is not None:
            yield name, "here", [_here_text(cell, digits) for cell in row["here"]]


def _heading(title: str, num_columns: int) -> str:
    if num_columns >= MANY_COLUMNS:
        return NARROW.get(title, title)
    return title.replace(", ", "\n").replace(" at ", "\nat ").replace(" then", "\nthen")


def _paper_text(value: Any, digits: int) -> str:
    return NOTHING if value is None else _number(value, digits)


def _here_text(cell: Mapping[str, Any] | None, digits: int) -> Text:
    if cell is None:
        return Text(NOTHING, style="not bold")
    if cell["value"] is None:
        return Text(f"[{cell['fill']}]", style="not bold dim")
    star = "*" if cell["short"] else ""
    return Text(f"{_number(cell['value'], digits)}{cell['mark']}{star}")


def _number(value: Any, digits: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    # a setting such as 0.05 must not be rounded away
    small = digits == 1 and value != 0 and abs(value) < 1
    return f"{value:g}" if small else f"{value:.{digits}f}"


def _legend(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for label in facts["labels"]:
        yield label["mark"], label["text"]
    cells = [cell for row in facts["rows"] for cell in row["here"] or () if cell is not None]
    if any(cell.get("short") for cell in cells):
        yield "*", SHORT_NOTE
    for note in facts["notes"]:
        yield "-", note
    if facts.get("figure"):
        yield "-", f"figure: {facts['figure']}"


def _hanging(sign: str, text: str, terminal: TerminalStyle) -> Text:
    safe = printable(text, ascii_only=terminal.ascii_only)
    indent = " " * (len(sign) + 1)
    wrapped = textwrap.wrap(
        safe,
        WIDTH,
        initial_indent=f"{sign} ",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return Text("\n".join(wrapped), style="dim", no_wrap=True, overflow="ignore")


def _commands(facts: Mapping[str, Any], terminal: TerminalStyle) -> Iterator[Text]:
    if not facts["commands"]:
        return
    yield terminal.text("")
    yield terminal.text("What fills the empty cells:", style="bold")
    for task in facts["commands"]:
        head = _hanging(f"[{task['number']}]", _where(task["cells"]), terminal)
        yield head
        lines = command_lines(task["commands"], width=WIDTH - 4)
        safe = [printable(line, ascii_only=terminal.ascii_only) for line in lines]
        # a path that is longer than a line must stay in one piece
        yield Text("\n".join(f"    {x}" for x in safe), no_wrap=True, overflow="ignore")


def _where(cells: Sequence[Mapping[str, str | None]]) -> str:
    """Name cells, those of one row together: DeiT-B: ImageNet, ReaL, V2."""
    by_row: dict[str, list[str]] = {}
    for cell in cells:
        columns = by_row.setdefault(str(cell["row"]), [])
        columns.append(cell["column"] or "all that is empty")
    if len({tuple(columns) for columns in by_row.values()}) == 1:
        return f"{'; '.join(by_row)}: {', '.join(next(iter(by_row.values())))}"
    return "; ".join(f"{row}: {', '.join(columns)}" for row, columns in by_row.items())


def _broken(command: str, width: int) -> Iterator[str]:
    """Break a command before options; an option stays with its value, a quoted word whole."""
    line = ""
    for part in _parts(command):
        if line and len(line) + 1 + len(part) > width - 2:
            yield line
            line = f"  {part}"
        else:
            line = f"{line} {part}" if line else part
    yield line


def _parts(command: str) -> Iterator[str]:
    """Split a command into words, an option or a sign together with what follows it."""
    lexer = shlex.shlex(command, posix=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    waiting = ""
    for word in lexer:
        if waiting and not word.startswith("-"):
            word, waiting = f"{waiting} {word}", ""
        elif waiting:
            yield waiting
        if word in LEADING or word.startswith("--"):
            waiting = word
        else:
            waiting = ""
            yield word
    if waiting:
        yield waiting
