"""Progress of work that is no training: a live bar, or a line now and then.

Fetching, unpacking, listing, decoding, scoring; training has a screen of its own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from deit_transfer.cli.console import Output, plain_text
from deit_transfer.report.number_format import duration

PLAIN_LINE_EVERY_S = 10.0
Unit = Literal["MB", "images", "runs"]


class Pace:
    """Measures the pace of one piece of work; another total is another piece.

    Args:
        now: Returns seconds; replaced in tests.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._total = -1
        self._from = (0, 0.0)

    def left_s(self, done: int, total: int) -> float | None:
        """Return the seconds that are left, None while that cannot be known."""
        now = self._now()
        if total != self._total or done < self._from[0]:
            # what lay there already (a download that goes on) says nothing about the pace
            self._total, self._from = total, (done, now)
        gained, seconds = done - self._from[0], now - self._from[1]
        return (total - done) * seconds / gained if gained > 0 and total >= done else None


def amount(done: int, total: int, unit: Unit) -> str:
    """Return how much is done, such as `12 of 163 MB`; without a total where it is unknown."""
    scale = 1e6 if unit == "MB" else 1
    whole = f" of {total / scale:,.0f}" if total else ""
    return f"{done / scale:,.0f}{whole} {unit}"


class WaitingLines:
    """Prints progress now and then, in plain lines.

    Args:
        tell: Prints a line.
        every_s: Seconds between two lines; nothing is said before that.
        now: Returns seconds; replaced in tests.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        every_s: float = PLAIN_LINE_EVERY_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._every_s, self._now = tell, every_s, now
        self._said_at = now()
        self._pace = Pace(now)

    def show(self, title: str, done: int, total: int, unit: Unit) -> None:
        left_s = self._pace.left_s(done, total)
        if self._now() - self._said_at < self._every_s:
            return
        self._said_at = self._now()
        left = f", {duration(left_s)} left" if left_s is not None else ""
        self._tell(f"{title}: {amount(done, total, unit)}{left}")


@contextmanager
def progress_shown(
    output: Output, title: str, *, unit: Unit = "images"
) -> Iterator[Callable[[int, int], None]]:
    """Show work until the context closes; yields what is called with what is done and the total.

    Args:
        output: Where it is shown.
        title: What is being done.
        unit: What is counted; bytes are shown as MB.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    live = output.shown_live
    lines = WaitingLines(output.tell)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=output.console, transient=True, disable=not live) as bar:
        task = bar.add_task(plain_text(title), total=None, amount="")
        last_total = 0

        def show(done: int, total: int) -> None:
            nonlocal last_total
            if not live:
                lines.show(title, done, total, unit)
                return
            if total != last_total:
                bar.reset(task)  # the next piece of work has a pace of its own
                last_total = total
            bar.update(task, completed=done, total=total or None, amount=amount(done, total, unit))

        yield show
