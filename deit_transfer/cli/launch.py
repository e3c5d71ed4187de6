"""Own starting several processes of one command on this machine."""

import os
import signal
import subprocess
import sys
from types import FrameType

import typer


def launch_processes(count: int) -> None:
    """Run this very command under torchrun with `count` processes, and end with its exit code.

    torchrun passes a stop signal on to every process; the first that fails ends the others.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        "--module",
        "deit_transfer",
        *_without_nproc(sys.argv[1:]),
    ]
    process = subprocess.Popen(command, env={"OMP_NUM_THREADS": _threads(count), **os.environ})

    def pass_on(signum: int, frame: FrameType | None) -> None:
        process.send_signal(signum)

    # Ctrl-C reaches the whole group by itself; the others would reach this process alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, pass_on)
    raise typer.Exit(process.wait())


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


def _threads(count: int) -> str:
    return str(max(1, (os.cpu_count() or 1) // count))
