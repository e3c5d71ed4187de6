"""Start several processes of one command on this machine; torchrun does it on many."""

import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

import typer

LOOK_EVERY_S = 0.1
GRACE_S = 30.0


def launch_processes(count: int) -> None:
    """Run this very command in `count` processes, and end with the code of the first that fails.

    The variables are those of torchrun. A stop signal is passed on to every process, and when
    one fails the others are asked to end: its error is the one on the screen.
    """
    command = [sys.executable, "-m", "deit_transfer", *_without_nproc(sys.argv[1:])]
    shared = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]

    def pass_on(signum: int, frame: FrameType | None) -> None:
        _signal_all(processes, signum)

    # Ctrl-C reaches the whole group by itself; the others would reach this process alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, pass_on)
    raise typer.Exit(_first_failure(processes))


def _first_failure(processes: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all processes; return the first code that is not 0, ending the others."""
    while any(process.poll() is None for process in processes):
        failed = [process.returncode for process in processes if process.returncode]
        if failed:
            _end_all(processes)
            return _as_exit_code(failed[0])
        time.sleep(LOOK_EVERY_S)
    codes = [process.returncode for process in processes if process.returncode]
    return _as_exit_code(codes[0]) if codes else 0


def _end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """Leave the others time to save, as one that was stopped does, then ask them to end."""
    deadline = time.monotonic() + GRACE_S
    _wait_until(processes, time.monotonic() + GRACE_S / 10)
    _signal_all(processes, signal.SIGTERM)
    _wait_until(processes, deadline)
    _signal_all(processes, signal.SIGKILL)


def _wait_until(processes: list[subprocess.Popen[bytes]], deadline: float) -> None:
    while time.monotonic() < deadline and any(p.poll() is None for p in processes):
        time.sleep(LOOK_EVERY_S)


def _signal_all(processes: list[subprocess.Popen[bytes]], signum: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signum)


def _as_exit_code(returncode: int) -> int:
    """Return a shell's code for a process: 128 and its number for one that a signal killed."""
    return 128 - returncode if returncode < 0 else returncode


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _without_nproc(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--nproc":
            skip = True
        elif not argument.startswith("--nproc="):
            kept.append(argument)
    return kept
