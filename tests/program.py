"""Run the command line in real processes, cheaply: forks of a server that has imported everything.

A process has its own memory, signals, files and exit code, as one started from a shell does; only
the seconds of importing torch are spent once.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import pkgutil
import pty
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from deit_transfer.data import adapters

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = [
    "albumentations",
    "deit_transfer.cli.app",
    "deit_transfer.cli.screens",
    "deit_transfer.data.check",
    "deit_transfer.report.comparison",
    "deit_transfer.experiments.compare",
    "deit_transfer.experiments.demo",
    "deit_transfer.experiments.epochs",
    "deit_transfer.evaluation.evaluate",
    "deit_transfer.evaluation.predict",
    "deit_transfer.report.evaluation",
    "deit_transfer.runs.listing",
    "deit_transfer.training.plan",
    "deit_transfer.html_report.report",
    "deit_transfer.evaluation.probe",
    "deit_transfer.experiments.sweep",
    "deit_transfer.training.train",
    "matplotlib.figure",
    "scipy.stats",
    "sklearn.datasets",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.neighbors",
    "timm",
    "torch",
    "torch.utils.serialization.config",
    "deit_transfer.cli.launch",
    *(f"{adapters.__name__}.{found.name}" for found in pkgutil.iter_modules(adapters.__path__)),
    *(f"PIL.{f.name}" for f in pkgutil.iter_modules(PIL.__path__) if "ImagePlugin" in f.name),
]
CONTEXT.set_forkserver_preload(PRELOADED)

# A network and a schedule of moments; the rest is as a person would have it.
QUICK = (
    "--model=deit_micro",
    "--resolution=16",
    "--batch-size=8",
    "--epochs=2",
    "--workers=0",
    "--device=cpu",
    "--set=schedule.min_steps=0",
    "--set=schedule.warmup_epochs=0.5",
    "--set=optim.floor_lr=0",
    "--set=optim.warmup_lr=0",
    "--set=data.select=val",
)

Prepare = Callable[[], object]


@dataclass(frozen=True)
class Ended:
    """Hold what a process left: its exit code (negative: the signal that killed it) and streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """Stderr with its line breaks taken out, for looking up sentences."""
        return " ".join(self.err.split())


class Running:
    """Hold a process that was started."""

    def __init__(
        self, process: Any, files: tuple[Path, Path], terminal: tuple[int, int] | None
    ) -> None:
        self.process = process
        self._files = files
        self._terminal = terminal
        self._shown = bytearray()

    def send(self, signum: signal.Signals) -> None:
        os.kill(self.process.pid, signum)

    def wait_for(self, condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Return as soon as a condition holds; fail when the process ends or takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self.end()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.005)

    def end(self, *, seconds: float = 120.0) -> Ended:
        """Wait for the process to end."""
        reader = threading.Thread(target=self._read_terminal)
        reader.start()
        self.process.join(seconds)
        ended_itself = self.process.exitcode is not None
        self.process.kill()
        self.process.join()
        if self._terminal is not None:
            os.close(self._terminal[1])  # the last writer: the reader meets the end
        reader.join()
        assert ended_itself, "the process did not end"
        out, err = (path.read_text(encoding="utf-8") for path in self._files)
        return Ended(self.process.exitcode, out + self._shown.decode(), err)

    def _read_terminal(self) -> None:
        if self._terminal is None:
            return
        # Linux tells the end of a terminal by an error
        with contextlib.suppress(OSError):
            while part := os.read(self._terminal[0], 65536):
                self._shown += part
        os.close(self._terminal[0])


def start_program(
    *arguments: str | Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    prepare: Sequence[Prepare] = (),
    on_terminal: bool = False,
) -> Running:
    """Start `deit-transfer ARGUMENTS` in a folder.

    Args:
        arguments: As on the command line.
        folder: Working directory; the streams are kept in files of a hidden folder in it.
        environment: Variables set besides those of the tests.
        prepare: Picklable functions called in the process first, to set traps.
        on_terminal: Connect stdout and stderr to a terminal of 80 columns.
    """
    CONTEXT.set_forkserver_preload(PRELOADED)
    streams = folder / ".streams"
    streams.mkdir(exist_ok=True)
    number = len(list(streams.iterdir()))
    files = (streams / f"{number:04d}.out", streams / f"{number:04d}.err")
    for file in files:
        file.touch()
    terminal = pty.openpty() if on_terminal else None
    names = [os.ttyname(terminal[1])] * 2 if terminal else [str(file) for file in files]
    process = CONTEXT.Process(
        target=_run,
        args=(
            [str(argument) for argument in arguments],
            str(folder),
            names,
            dict(environment or {}),
            list(prepare),
        ),
    )
    process.start()
    # a test that fails before it has waited must not keep all tests from ending
    atexit.register(process.kill)
    return Running(process, files, terminal)


def run_program(
    *arguments: str | Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    prepare: Sequence[Prepare] = (),
    on_terminal: bool = False,
) -> Ended:
    """Run `deit-transfer ARGUMENTS` in a folder to its end; see `start_program`."""
    running = start_program(
        *arguments,
        folder=folder,
        environment=environment,
        prepare=prepare,
        on_terminal=on_terminal,
    )
    return running.end()


def hasten() -> None:
    """Leave out what only costs a test time: timing the network, and waiting for the disk.

    A killed process loses nothing that it has written; only a power cut does.
    """
    from deit_transfer.training import time_budget

    time_budget.SAMPLE_SECONDS = 0.002
    os.fsync = lambda _descriptor: None


def _run(
    arguments: list[str],
    folder: str,
    streams: list[str],
    environment: dict[str, str],
    prepare: list[Prepare],
) -> None:
    # tests that themselves run in the background of a shell inherit an ignored Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, name in zip((1, 2), streams, strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.argv = ["deit-transfer", *arguments]
    hasten()
    for function in prepare:
        function()
    from deit_transfer.cli.app import main

    main()
