"""Freed blocks stay with the process where the C library can be told so."""

import subprocess
import sys

import pytest

# in a process of its own: the setting cannot be taken back. A block of 64 MiB is used and freed
# again and again; page faults count how often the kernel had to give it anew.
COUNT_FAULTS = """
import resource, sys, torch
from deit_transfer.engine.glibc_malloc import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use():
    torch.ones(16 * 2**20)
use(); use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str) -> int:
    command = [sys.executable, "-c", COUNT_FAULTS, setting]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_large_blocks_are_used_again() -> None:
    assert faults("keep") < faults("leave") / 4
