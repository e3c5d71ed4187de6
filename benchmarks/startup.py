"""Time starting up: the help screen, and from the command to a first step on the digits.

python benchmarks/startup.py
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from machine import describe_machine

ROUNDS = 5
COMMAND = [sys.executable, "-m", "deit_transfer"]
HELP, FIRST_STEP = "deit-transfer --help", "scratch digits: one step, made and scored"
LIMITS_S = {HELP: 0.5, FIRST_STEP: 8.0}


def seconds_of(arguments: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def seconds_to_first_step() -> float:
    """Start a run of one step on the digits, and return when its epoch's line has appeared."""
    folder = tempfile.mkdtemp()
    command = [*COMMAND, "scratch", "digits", "--out", folder, "--set", "schedule.max_steps=1"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.lstrip().startswith("1/1 "):
                return time.perf_counter() - started
        raise SystemExit("the run ended without a step")
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    print(describe_machine())
    measured = {
        HELP: [seconds_of(["--help"]) for _ in range(ROUNDS)],
        FIRST_STEP: [seconds_to_first_step() for _ in range(ROUNDS)],
    }
    for name, seconds in measured.items():
        print(
            f"{name:46} median {statistics.median(seconds):5.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f}), limit {LIMITS_S[name]:g} s"
        )


if __name__ == "__main__":
    main()
