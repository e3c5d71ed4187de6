"""Send real signals to real processes."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from deit_transfer.engine.distributed import World
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import Interrupted, Preempted

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.mark.parametrize(
    ("signum", "error", "code"),
    [
        (signal.SIGTERM, Preempted, 75),
        (signal.SIGUSR1, Preempted, 75),
        (signal.SIGINT, Interrupted, 130),
    ],
)
def test_a_signal_is_noted_and_raised_when_asked(
    signum: signal.Signals, error: type[Preempted], code: int
) -> None:
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with StopSignals() as stop:
        stop.check()
        assert not stop.requested()
        os.kill(os.getpid(), signum)
        assert stop.requested(World())
        with pytest.raises(error, match=signum.name) as caught:
            stop.check()
        assert caught.value.exit_code == code
        assert "--resume" in caught.value.hint
    assert {s: signal.getsignal(s) for s in before} == before


def test_ctrl_c_after_sigterm_keeps_the_first_reason() -> None:
    with StopSignals(repeat_s=60) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # within repeat_s: torchrun's echo
        with pytest.raises(Preempted):
            stop.check()


def _wait_stubbornly(ready, told) -> None:
    with StopSignals(before_exit=told.set):
        ready.set()
        while True:
            time.sleep(0.01)


def test_second_ctrl_c_ends_the_process_at_once() -> None:
    ready, told = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_wait_stubbornly, args=(ready, told))
    process.start()
    assert ready.wait(10)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(5)
    assert process.exitcode == 130
    assert told.is_set()


def _note_in_child(stop: StopSignals, ready, result) -> None:
    ready.set()
    time.sleep(0.3)
    result.value = int(stop.requested())


def test_forked_workers_do_not_answer() -> None:
    ready, result = FORK.Event(), FORK.Value("i", -1)
    with StopSignals() as stop:
        process = FORK.Process(target=_note_in_child, args=(stop, ready, result))
        process.start()
        assert ready.wait(10)
        os.kill(process.pid, signal.SIGTERM)
        process.join(5)
    assert result.value == 0
    assert process.exitcode == 0


def test_outside_the_main_thread_nothing_is_set() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with StopSignals() as stop:
            seen.append((stop.requested(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
