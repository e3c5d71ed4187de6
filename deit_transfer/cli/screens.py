"""What a training run shows: header, live bar, growing training table."""

import contextlib
import os
import time
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from deit_transfer.cli.console import Output, plain_text
from deit_transfer.cli.progress import WaitingLines, amount
from deit_transfer.engine.loop import StepReport
from deit_transfer.report.header import HeaderFacts, run_header
from deit_transfer.report.result import result_line, result_table
from deit_transfer.report.training_table import epoch_columns, epoch_header, epoch_row

PLAIN_LINE_EVERY_S = 30.0
RATE_WINDOW_STEPS = 20
MOST_EPOCH_ROWS = 20


class TrainingScreen:
    """Shows one run to a person: live on a terminal, in plain lines elsewhere.

    Use as a context manager, so that the live bar is taken away whatever happens.

    Args:
        output: Where it is shown.
        several: The run is one of several: a header only where it says something new, and one
            line for its result.
    """

    def __init__(self, output: Output, *, several: bool = False) -> None:
        self._output = output
        self._several = several
        self._headers_shown: set[tuple[str, ...]] = set()
        self._console = output.console
        self._live = output.shown_live
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._loading = WaitingLines(output.tell)
        self._loading_total = 0
        self._heading_shown = False
        self._last_line_at = time.monotonic()
        self._recent: list[tuple[int, float]] = []

    def __enter__(self) -> "TrainingScreen":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self._output.tell(text)

    def warn(self, text: str) -> None:
        self._output.warn(text)

    def loading(self, dataset: str, done: int, total: int) -> None:
        if not self._live:
            self._loading.show(f"preparing {dataset}", done, total, "MB")
            return
        if total != self._loading_total:
            self._remove_bar()  # the next piece of work has a pace of its own
            self._loading_total = total
        self._show_bar(f"preparing {dataset}", amount(done, total, "MB"), done, total or None)

    def header(self, facts: HeaderFacts) -> None:
        self._remove_bar()
        self._heading_shown = False
        self._recent.clear()
        # the seeds of one arm differ in nothing that the header says
        arm = (facts.mode, facts.model, facts.start, facts.recipe)
        if not self._several or arm not in self._headers_shown:
            self._output.tell(run_header(facts))
        self._headers_shown.add(arm)

    def step(self, report: StepReport, total_steps: int) -> None:
        self._recent = [*self._recent, (report.images, report.time_s)][-RATE_WINDOW_STEPS:]
        seconds = sum(time_s for _, time_s in self._recent)
        rate = sum(images for images, _ in self._recent) / max(seconds, 1e-9)
        facts = f"loss {report.loss:.3f}  lr {report.lr:.1e}  {rate:.0f} img/s"
        if self._live:
            self._show_bar(f"epoch {report.epoch + 1}", facts, report.step + 1, total_steps)
        elif time.monotonic() - self._last_line_at > PLAIN_LINE_EVERY_S:
            self._last_line_at = time.monotonic()
            left_s = (total_steps - report.step - 1) * seconds / len(self._recent)
            step = f"step {report.step + 1}/{total_steps}"
            self._output.tell(f"{step}  {facts}  training left {left_s / 60:.1f} min")

    def scoring(self, split: str) -> None:
        if self._live and self._task is not None:
            self._progress.update(self._task, facts=f"scoring {split} ...")

    def epoch(self, record: dict[str, Any]) -> None:
        if not _worth_a_row(record):
            return
        columns = epoch_columns(
            distilled="heads" in record,
            ema="ema_top1" in record,
            taught="teacher_agreement" in record,
        )
        if not self._heading_shown:
            self._output.tell(epoch_header(columns))
            self._heading_shown = True
        self._output.tell(epoch_row(record, columns))

    def done(self, result: dict[str, Any]) -> None:
        self._remove_bar()
        if self._several:
            self._output.tell(result_line(result))
        elif not self._output.as_json:
            self._output.show(result_table(result))

    def stopping(self) -> None:
        start = "\n" if self._live else ""
        self._write(f"{start}finishing this step, then saving; Ctrl-C again stops now\n")

    def leave(self) -> None:
        if self._live:
            self._write("\x1b[?25h\n")

    def _write(self, text: str) -> None:
        """Write in a signal handler: what was interrupted may hold the console's lock."""
        with contextlib.suppress(OSError):
            os.write(self._console.file.fileno(), text.encode())

    def _show_bar(self, title: str, facts: str, done: int, total: int | None) -> None:
        if self._task is None:
            self._task = self._progress.add_task(plain_text(title), total=total, facts=facts)
        self._progress.update(
            self._task, description=plain_text(title), completed=done, total=total, facts=facts
        )

    def _remove_bar(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


def _worth_a_row(record: dict[str, Any]) -> bool:
    """Thin a long run's table out; metrics.csv has every epoch."""
    epoch, epochs = record["epoch"], record["epochs"]
    every = -(-epochs // MOST_EPOCH_ROWS)
    return epoch % every == 0 or epoch in (1, epochs)
