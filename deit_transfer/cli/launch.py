"""Start several processes of one command on this machine; torchrun does it on many.

The processes find each other through a store that listens on the loopback address only. They end
when the launcher does. Of their errors the launcher shows one: that of the process that failed
first.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from deit_transfer.cli.console import show_error
from deit_transfer.errors import DeitTransferError, Interrupted, PeerLostError, StoppedError

if TYPE_CHECKING:
    from torch.distributed import Store

    from deit_transfer.engine.distributed import World

LOOK_EVERY_S = 0.05
GRACE_S = 30.0
STORE_TIMEOUT_S = 300.0
FAILURES_FOLDER = "DEIT_TRANSFER_FAILURES"  # where a process leaves its error for the launcher
STORE_SOCKET = "DEIT_TRANSFER_STORE_SOCKET"  # the listening socket that rank 0 inherits
LAUNCHER = "DEIT_TRANSFER_LAUNCHER"  # the launcher's process id
SET_PARENT_DEATH_SIGNAL = 1  # linux/prctl.h
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Failure:
    """How a process failed; `error` is None where it has shown its error itself."""

    time_s: float
    exit_code: int
    error: DeitTransferError | None = None
    is_consequence: bool = False


def launch_processes(count: int) -> None:
    """Run this very command in `count` processes, and end with the code of the first that fails.

    The variables are those of torchrun. A stop signal is passed on to every process, and when
    one fails the others are asked to end.
    """
    command = [sys.executable, "-m", "deit_transfer", *_without_nproc(sys.argv[1:])]
    with tempfile.TemporaryDirectory(prefix="deit-transfer-") as folder, _listening() as listening:
        shared = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
            **_loopback_interface(),
            **os.environ,
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(listening.getsockname()[1]),
            FAILURES_FOLDER: folder,
            LAUNCHER: str(os.getpid()),
        }
        processes = [
            _start(command, shared, rank=rank, listening=listening if rank == 0 else None)
            for rank in range(count)
        ]
        listening.close()

        def pass_on(signum: int, frame: FrameType | None) -> None:
            _signal_all(processes, signum)

        # Ctrl-C reaches the whole group by itself; the others would reach this process alone
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(signum, pass_on)
        failure = _first_failure(processes, Path(folder))
    if failure is None:
        return
    if failure.error is not None:
        show_error(failure.error)
    raise typer.Exit(failure.exit_code)


def leave_failure(error: DeitTransferError) -> bool:
    """Leave an error to the launcher, which shows one of all; False where there is no launcher."""
    folder = os.environ.get(FAILURES_FOLDER)
    if folder is None:
        return False
    left = {
        "time_s": time.time(),
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint,
        "stopped": isinstance(error, StoppedError),
        "is_consequence": isinstance(error, PeerLostError),
    }
    try:
        # rename: the launcher may look at any moment
        path = Path(folder) / f"{os.environ['RANK']}.json"
        path.with_suffix(".tmp").write_text(json.dumps(left), encoding="utf-8")
        path.with_suffix(".tmp").rename(path)
    except OSError:
        return False
    return True


def end_with_launcher() -> None:
    """Where the system cannot do it, watch the launcher, and stop this process when it is gone."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None and not sys.platform.startswith("linux"):
        watch_parent(int(launcher))


def watch_parent(parent: int, *, look_every_s: float = 1.0) -> None:
    """Send this process SIGTERM as soon as its parent is another process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(look_every_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def shared_store(world: "World") -> "Store | None":
    """Return the store of the launcher's processes; None where there is no launcher."""
    if LAUNCHER not in os.environ or world.size == 1:
        return None
    from datetime import timedelta

    from torch.distributed import TCPStore

    inherited: dict[str, Any] = {}
    if world.is_main:
        inherited = {"master_listen_fd": int(os.environ[STORE_SOCKET])}
    return TCPStore(
        LOOPBACK,
        int(os.environ["MASTER_PORT"]),
        world.size,
        world.is_main,
        timedelta(seconds=STORE_TIMEOUT_S),
        **inherited,
    )


def _listening() -> socket.socket:
    listening = socket.socket()
    listening.bind((LOOPBACK, 0))
    listening.listen(socket.SOMAXCONN)
    return listening


def _loopback_interface() -> dict[str, str]:
    """Return what keeps gloo's own connections on the loopback interface."""
    names = {name for _, name in socket.if_nameindex()}
    name = next((name for name in ("lo", "lo0") if name in names), None)
    return {} if name is None else {"GLOO_SOCKET_IFNAME": name}


def _start(
    command: list[str], shared: dict[str, str], *, rank: int, listening: socket.socket | None
) -> "subprocess.Popen[bytes]":
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if listening is not None:
        own[STORE_SOCKET] = str(listening.fileno())
    return subprocess.Popen(
        command,
        env={**shared, **own},
        pass_fds=() if listening is None else (listening.fileno(),),
        preexec_fn=_ending_with_this_process(),
    )


def _ending_with_this_process() -> Callable[[], None] | None:
    """Return what a new process calls first, so that SIGTERM comes when this one is gone."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return prepare


def _first_failure(processes: list["subprocess.Popen[bytes]"], folder: Path) -> Failure | None:
    """Wait for all processes, ending the others when one fails; return the first failure in time.

    That a process has lost another is a consequence, however early it was noticed.
    """
    ended: dict[int, float] = {}
    while len(ended) < len(processes) and not any(p.returncode for p in processes):
        time.sleep(LOOK_EVERY_S)
        _note_ends(processes, ended)
    _end_all(processes, ended)
    failures = [
        _failure(process.returncode, rank=rank, ended_s=ended[rank], folder=folder)
        for rank, process in enumerate(processes)
        if process.returncode
    ]
    return min(failures, key=lambda f: (f.is_consequence, f.time_s), default=None)


def _failure(returncode: int, *, rank: int, ended_s: float, folder: Path) -> Failure:
    with suppress(OSError):
        left = json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))
        kind = Interrupted if left["stopped"] else DeitTransferError
        return Failure(
            left["time_s"],
            left["exit_code"],
            kind(left["message"], hint=left["hint"]),
            left["is_consequence"],
        )
    if returncode > 0:
        return Failure(ended_s, returncode)
    name = signal.Signals(-returncode).name
    error = DeitTransferError(
        f"process {rank} of this run was killed by {name}",
        hint="SIGKILL often means that memory was full: take fewer processes or a smaller "
        "--batch-size, and go on with --resume",
    )
    return Failure(ended_s, 128 - returncode, error)


def _end_all(processes: list["subprocess.Popen[bytes]"], ended: dict[int, float]) -> None:
    """Leave the others time to save, as one that was stopped does, then ask them to end."""
    deadline = time.monotonic() + GRACE_S
    _wait_until(processes, ended, time.monotonic() + GRACE_S / 10)
    _signal_all(processes, signal.SIGTERM)
    _wait_until(processes, ended, deadline)
    _signal_all(processes, signal.SIGKILL)
    _wait_until(processes, ended, deadline + GRACE_S)


def _wait_until(
    processes: list["subprocess.Popen[bytes]"], ended: dict[int, float], deadline: float
) -> None:
    _note_ends(processes, ended)
    while time.monotonic() < deadline and len(ended) < len(processes):
        time.sleep(LOOK_EVERY_S)
        _note_ends(processes, ended)


def _note_ends(processes: list["subprocess.Popen[bytes]"], ended: dict[int, float]) -> None:
    """Note when processes ended; killed ones first, whose end the others cannot have caused."""
    gone = [r for r, process in enumerate(processes) if process.poll() is not None]
    for rank in sorted(gone, key=lambda r: processes[r].returncode):
        ended.setdefault(rank, time.time())


def _signal_all(processes: list["subprocess.Popen[bytes]"], signum: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signum)


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
