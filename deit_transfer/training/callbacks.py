"""Callbacks of a run: notes, progress, metrics and the result, shown by the command line."""

from typing import Any, Protocol

from deit_transfer.engine.loop import StepReport
from deit_transfer.report.header import HeaderFacts


class Callbacks(Protocol):
    """What a training run calls as it goes."""

    def note(self, text: str) -> None:
        """Called with something worth knowing."""

    def warn(self, text: str) -> None:
        """Called with a warning."""

    def loading(self, dataset: str, done: int, total: int) -> None:
        """Called while a dataset is downloaded, unpacked or listed; a total of 0 is unknown."""

    def header(self, facts: HeaderFacts) -> None:
        """Called once, before the first step."""

    def step(self, report: StepReport, total_steps: int) -> None:
        """Called after each optimizer update."""

    def scoring(self, split: str) -> None:
        """Called before a split is evaluated."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Called with the metrics of an epoch that ended."""

    def done(self, result: dict[str, Any]) -> None:
        """Called with the result."""

    def stopping(self) -> None:
        """Called from the signal handler at the first Ctrl-C."""

    def leave(self) -> None:
        """Called from the signal handler just before a forced exit."""


class NoCallbacks:
    """Callbacks that do nothing."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def loading(self, dataset: str, done: int, total: int) -> None: ...

    def header(self, facts: HeaderFacts) -> None: ...

    def step(self, report: StepReport, total_steps: int) -> None: ...

    def scoring(self, split: str) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...

    def done(self, result: dict[str, Any]) -> None: ...

    def stopping(self) -> None: ...

    def leave(self) -> None: ...
