"""Measure the memory that fine-tuning really takes: this program with all its loader processes.

    python benchmarks/memory.py TREE --model deit_tiny_patch16_224 --batch-size 64

Shared pages are counted once (proportional set size, from /proc, so Linux only). The network starts
from nothing, which takes the same memory as published weights; the run is ended when it has trained
for a while.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

EVERY_S = 1.0  # looking at every page of large processes takes time itself


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def memory_mb(pid: int) -> float:
    """Return the proportional set size of a process and all below it, in MiB."""
    total = 0
    for one in family(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="Catalog name or folder, such as CIFAR-10 in folders")
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--batch-size", default="64")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--seconds", type=float, default=90, help="Of the run, start-up included")
    parser.add_argument("--limit-mb", type=float, default=3072)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "deit_transfer", "scratch", given.dataset, "--out", folder),
            *("--model", given.model, "--batch-size", given.batch_size),
            *("--workers", given.workers, "--set", "schedule.progressive=[]", "--json", "--quiet"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak, until = 0.0, time.monotonic() + given.seconds
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError):  # a process ended between two looks
                peak = max(peak, memory_mb(process.pid))
            time.sleep(EVERY_S)
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself with exit code {process.returncode}")
        process.terminate()
        process.wait()
    print(describe_machine())
    print(
        f"{given.model}, batch {given.batch_size}, {given.workers} workers: "
        f"peak {peak:,.0f} MiB, limit {given.limit_mb:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
