"""Own how far a command is, while it works longer than a moment: a live bar, or a line at times."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deit_transfer.cli.console import Output

PLAIN_LINE_EVERY_S = 10.0


@contextmanager
def progress_shown(output: Output, title: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far long work is: a live bar on a terminal, now and then a line elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    live = output.console.is_terminal and not output.quiet
    last_line_at = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=output.console, transient=True, disable=not live) as bar:
        task = bar.add_task(title, total=None)

        def show(done: int, total: int) -> None:
            nonlocal last_line_at
            bar.update(task, completed=done, total=total or None)
            if not live and total and time.monotonic() - last_line_at > PLAIN_LINE_EVERY_S:
                last_line_at = time.monotonic()
                output.tell(f"{title}: {done / total:.0%}")

        yield show
