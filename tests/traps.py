"""Strike a process from within, at one exact moment: a signal at the n-th call of a function."""

import importlib
import os
import signal
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Strike:
    """Send this process a signal just before, or just after, the n-th call of a function.

    Picklable, so that it can be handed to a process. Where the signal is noted and answered later,
    as SIGTERM is, the function goes on.

    Args:
        target: Such as "deit_transfer.training.trainer:Trainer.after_step".
        call: Which call, from 1.
        after: Let the call be made first.
        signals: Sent one after the other.
    """

    target: str
    call: int = 1
    after: bool = False
    signals: tuple[signal.Signals, ...] = (signal.SIGKILL,)

    def __call__(self) -> None:
        owner, name = _find(self.target)
        original = getattr(owner, name)
        calls = 0

        def trapped(*values: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls == self.call
            if mine and not self.after:
                self._send()
            result = original(*values, **named)
            if mine and self.after:
                self._send()
            return result

        setattr(owner, name, trapped)

    def _send(self) -> None:
        for signum in self.signals:
            os.kill(os.getpid(), signum)


@dataclass(frozen=True)
class Replace:
    """Put another function, named as "module:name", in a function's place."""

    target: str
    substitute: str

    def __call__(self) -> None:
        owner, name = _find(self.target)
        other, other_name = _find(self.substitute)
        setattr(owner, name, getattr(other, other_name))


def _find(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    found: Any = importlib.import_module(module)
    for owner in owners:
        found = getattr(found, owner)
    return found, name
