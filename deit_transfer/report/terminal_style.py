"""The style of terminal output: boxes, signs, and text made safe to print.

On a terminal that speaks UTF-8 boxes are drawn with lines; anywhere else (a pipe, a file, an
ASCII console) with plain ASCII. Decides nothing about what is shown.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

ZERO_WIDTH_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class TerminalStyle:
    """The boxes and signs that fit the output; makes text safe to print."""

    box: box.Box
    plus_minus: str
    arrow: str
    ascii_only: bool

    def text(self, value: object, *, style: str = "") -> Text:
        """Return a value as text: no markup is read from it, no control code gets through."""
        return Text(printable(value, ascii_only=self.ascii_only), style=style, overflow="fold")

    def lines(self, values: Iterable[object], *, style: str = "") -> Text:
        """Return several values as text, each on its own line."""
        return Text("\n", overflow="fold").join(self.text(value, style=style) for value in values)


FANCY = TerminalStyle(box=box.ROUNDED, plus_minus="±", arrow="→", ascii_only=False)
PLAIN = TerminalStyle(box=box.ASCII, plus_minus="+-", arrow="->", ascii_only=False)
PLAIN_ASCII = TerminalStyle(box=box.ASCII, plus_minus="+-", arrow="->", ascii_only=True)


class Screen:
    """Renders what `build` returns for the style that the console can show."""

    def __init__(self, build: Callable[[TerminalStyle], RenderableType]) -> None:
        self.build = build

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.build(_fitting_look(options))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.build(_fitting_look(options)))


def _fitting_look(options: ConsoleOptions) -> TerminalStyle:
    if options.ascii_only:
        return PLAIN_ASCII
    return FANCY if options.is_terminal else PLAIN


def printable(value: object, *, ascii_only: bool = False) -> str:
    """Return text in which control codes, line ends and undecodable bytes are written as escapes.

    File and class names come from disk and may hold any of them.
    """
    kept = "".join(c if _is_safe(c) else ascii(c)[1:-1] for c in str(value))
    return kept.encode("ascii", "backslashreplace").decode() if ascii_only else kept


def _is_safe(character: str) -> bool:
    # spaces of other scripts and the joiners inside words are unprintable to str alone
    return (
        character.isprintable()
        or unicodedata.category(character) == "Zs"
        or character in ZERO_WIDTH_JOINERS
    )


def facts_table(
    terminal: TerminalStyle, title: str, groups: Iterable[Sequence[tuple[str, RenderableType]]]
) -> Table:
    """Return a boxed table of label and value, a line between groups; empty groups vanish."""
    table = new_table(terminal, title)
    table.show_header = False
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for group in groups:
        for label, value in group:
            table.add_row(label, terminal.text(value) if isinstance(value, str) else value)
        table.add_section()
    return table


def new_table(terminal: TerminalStyle, title: str) -> Table:
    """Return an empty boxed table whose title stands left."""
    shown = terminal.text(title, style="bold") if title else None
    return Table(
        title=shown, title_justify="left", title_style="", box=terminal.box, header_style=""
    )
