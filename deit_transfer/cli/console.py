"""The two streams: stderr and tables for people, one JSON object on stdout for programs."""

import json
import shlex
import textwrap
from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from deit_transfer.errors import DeitTransferError, StoppedError
from deit_transfer.report.terminal_style import printable

PLAIN_WIDTH = 80


class Output:
    """Sends screens to people and one object to programs.

    Args:
        as_json: Print exactly one JSON object on stdout; everything else goes to stderr.
        quiet: Leave out headers and progress; results and errors still show.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.console = make_console(stderr=as_json)

    @property
    def shown_live(self) -> bool:
        """Whether a live bar may be drawn: on a terminal, unless --quiet.

        FORCE_COLOR asks for colors in a file, not for a bar.
        """
        console = self.console
        drawn = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
        return drawn and not self.quiet

    def show(self, renderable: RenderableType) -> None:
        """Print a result."""
        self.console.print(as_written(renderable))

    def tell(self, renderable: RenderableType) -> None:
        """Print something that --quiet leaves out."""
        if not self.quiet:
            self.console.print(as_written(renderable))

    def warn(self, text: str) -> None:
        """Print a warning, also with --quiet."""
        self.console.print(as_written(f"Warning: {text}"), style="yellow")

    def suggest(self, *commands: list[str]) -> None:
        """Print the commands to type next, each whole on its line; people only."""
        if not self.quiet and not self.as_json:
            lines = [f"  {shlex.join(['deit-transfer', *command])}" for command in commands]
            self.console.print(as_written("\n".join(["", "Next:", *lines])), soft_wrap=True)

    def show_code(self, lines: list[str]) -> None:
        """Print lines to copy, each whole; people only."""
        if not self.quiet and not self.as_json:
            self.console.print(as_written("\n".join(lines)), soft_wrap=True)

    def finish(self, value: dict[str, Any], *renderables: RenderableType) -> None:
        """Print the command's result: as JSON if asked for, else as screens."""
        if self.as_json:
            # not through rich, which would wrap long lines
            print(json.dumps(value, indent=2))
        else:
            for renderable in renderables:
                self.show(renderable)


def as_written(renderable: RenderableType) -> RenderableType:
    """Return text that is printed as it stands; a screen is returned as it is.

    Names of files, classes and runs may hold terminal escapes and what rich takes for markup.
    """
    return Text(plain_text(renderable)) if isinstance(renderable, str) else renderable


def plain_text(text: str) -> str:
    """Return text with control codes written as escapes; its line ends are kept."""
    return "\n".join(map(printable, text.split("\n")))


def make_console(*, stderr: bool) -> Console:
    """Return a console; without a terminal it is 80 columns wide and free of escape codes."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, no_color=True, width=PLAIN_WIDTH)
    return console


def show_error(error: DeitTransferError) -> None:
    """Print an error, or why a run was stopped, and its hint on stderr."""
    console = make_console(stderr=True)
    if isinstance(error, StoppedError):
        _print_labeled(console, "Stopped", "bold yellow", error.message.removeprefix("stopped "))
    else:
        _print_labeled(console, "Error:", "bold red", error.message)
    if error.hint:
        _print_labeled(console, "Hint:", "bold", error.hint)


def _print_labeled(console: Console, label: str, style: str, text: str) -> None:
    """Print lines wrapped between words; a path stays in one piece, to be copied."""
    shown = Text("\n".join(_wrapped(f"{label} {text}", console.width)))
    shown.stylize(style, 0, len(label))
    console.print(shown, soft_wrap=True)


def _wrapped(text: str, width: int) -> Iterator[str]:
    for line in plain_text(text).split("\n"):
        margin = " " * (len(line) - len(line.lstrip(" -")))
        yield from textwrap.wrap(
            line,
            width,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
