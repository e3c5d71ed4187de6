"""Stop signals. The handler only records the signal; the run checks for it between batches.

The run then saves and ends with the exit code of the exception that `check` raises.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from deit_transfer.engine.distributed import World
from deit_transfer.errors import Interrupted, Preempted, StoppedError

_PREEMPTED, _INTERRUPTED = 1, 2  # Ctrl-C outranks: the person is watching


class StopSignals:
    """Record SIGTERM, SIGUSR1 and SIGINT while the context is open; a second Ctrl-C ends at once.

    Outside the main thread no handler can be set and none is. Forked workers inherit the handlers,
    which do nothing there.

    Args:
        repeat_s: A second Ctrl-C within so many seconds is the same one: torchrun passes on what
            the terminal has already sent to every process. 0 when started alone.
        on_interrupt: Called at the first Ctrl-C, within the handler.
        before_exit: Called before the second Ctrl-C ends the process, to give the terminal back.
        hint: What to type to go on.
    """

    def __init__(
        self,
        *,
        repeat_s: float = 0.0,
        on_interrupt: Callable[[], None] | None = None,
        before_exit: Callable[[], None] | None = None,
        hint: str = "Run the same command again with --resume to go on",
    ) -> None:
        self._repeat_s = repeat_s
        self._hint = hint
        self._on_interrupt = on_interrupt
        self._before_exit = before_exit
        self._received: signal.Signals | None = None
        self._received_at = 0.0
        self._pid = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    def requested(self, world: World | None = None) -> bool:
        """Return whether any process got a signal; every process of the world must call this."""
        return self._agreed(world) > 0

    def check(self, world: World | None = None) -> None:
        """Raise the exception of a received signal, if there was one.

        Raises:
            Preempted: SIGTERM or SIGUSR1 arrived here or in another process.
            Interrupted: SIGINT did.
        """
        agreed = self._agreed(world)
        if agreed:
            raise self._error(agreed)

    def _agreed(self, world: World | None) -> int:
        own = 0
        if self._received is not None:
            own = _INTERRUPTED if self._received is signal.SIGINT else _PREEMPTED
        return own if world is None else world.maximum(own)

    def _error(self, agreed: int) -> StoppedError:
        name = self._received.name if self._received else "a signal to another process"
        if agreed == _INTERRUPTED:
            return Interrupted(f"stopped by {name}", hint=self._hint)
        return Preempted(f"stopped by {name}", hint=self._hint)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return
        now = time.monotonic()
        is_repeat = self._received is not None and now - self._received_at < self._repeat_s
        if signum == signal.SIGINT and self._received is not None and not is_repeat:
            if self._before_exit:
                self._before_exit()
            # Nothing to lose: checkpoints are whole at any moment, and locks end with the process.
            os._exit(Interrupted.exit_code)
        if signum == signal.SIGINT and self._received is None and self._on_interrupt:
            self._on_interrupt()
        self._received = self._received or signal.Signals(signum)
        self._received_at = now
