"""Own what a program tells while it runs; who listens decides how it looks."""

from typing import Any, Protocol

from deit_transfer.engine.loop import StepReport
from deit_transfer.report.header import HeaderFacts


class Callbacks(Protocol):
    """Listen to a training run."""

    def note(self, text: str) -> None:
        """Hear something worth knowing."""

    def warn(self, text: str) -> None:
        """Hear something that should not be overlooked."""

    def loading(self, dataset: str, done: int, total: int) -> None:
        """Hear of bytes of a dataset that is fetched, unpacked or listed; a total of 0: unknown."""

    def header(self, facts: HeaderFacts) -> None:
        """Hear what is about to happen."""

    def step(self, report: StepReport, total_steps: int) -> None:
        """Hear of one optimizer update."""

    def scoring(self, split: str) -> None:
        """Hear that a split is being scored."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Hear the record of an epoch that ended."""

    def done(self, result: dict[str, Any]) -> None:
        """Hear the result."""

    def leave(self) -> None:
        """Hear, within a signal handler, that the process is about to end at once."""


class NoCallbacks:
    """Listen to nothing."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def loading(self, dataset: str, done: int, total: int) -> None: ...

    def header(self, facts: HeaderFacts) -> None: ...

    def step(self, report: StepReport, total_steps: int) -> None: ...

    def scoring(self, split: str) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...

    def done(self, result: dict[str, Any]) -> None: ...

    def leave(self) -> None: ...
