"""Own the two streams: what a person reads, and the one JSON object a program reads."""

import json
from typing import Any

from rich.console import Console, RenderableType

from deit_transfer.errors import DeitTransferError

PLAIN_WIDTH = 80


class Output:
    """Send screens to people and one object to programs.

    Args:
        as_json: Print exactly one JSON object on stdout; everything else goes to stderr.
        quiet: Leave out headers and progress; results and errors still show.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.console = make_console(stderr=as_json)

    def show(self, renderable: RenderableType) -> None:
        """Print a result."""
        self.console.print(renderable)

    def tell(self, renderable: RenderableType) -> None:
        """Print something that --quiet leaves out."""
        if not self.quiet:
            self.console.print(renderable)

    def finish(self, value: dict[str, Any], *renderables: RenderableType) -> None:
        """Print the command's result: as JSON if asked for, else as screens."""
        if self.as_json:
            # not through rich, which would wrap long lines
            print(json.dumps(value, indent=2))
        else:
            for renderable in renderables:
                self.show(renderable)


def make_console(*, stderr: bool) -> Console:
    """Return a console; without a terminal it is 80 columns wide and free of escape codes."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, no_color=True, width=PLAIN_WIDTH)
    return console


def show_error(error: DeitTransferError) -> None:
    """Print an error and its hint on stderr."""
    console = make_console(stderr=True)
    console.print("[bold red]Error:[/]", end=" ")
    console.print(error.message, markup=False)
    if error.hint:
        console.print("[bold]Hint:[/]", end=" ")
        console.print(error.hint, markup=False)
