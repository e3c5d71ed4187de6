"""The program must answer at once: heavy packages are imported by the work, not by the door."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "albumentations", "sklearn", "matplotlib", "numpy")

PROBE = """
import sys
from deit_transfer.cli.app import main
sys.argv = ["deit-transfer", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("IMPORTED", *[name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["finetune", "--help"], ["compare", "--help"]],
)
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    probe = PROBE.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1].split() == ["IMPORTED"], done.stderr


def test_python_m_runs_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deit_transfer", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("deit-transfer ")
