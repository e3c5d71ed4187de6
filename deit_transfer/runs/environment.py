"""Record where a run was computed: versions, machine, source and command."""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "deit-transfer",
    "torch",
    "torchvision",
    "timm",
    "albumentations",
    "numpy",
    "pillow",
    "scikit-learn",
)


_words: list[str] = []


def set_command_line(words: Sequence[str]) -> None:
    """Set the words after the program's name, which runs and reports record."""
    _words[:] = words


def command_line() -> str:
    """Return the command that was typed, quoted for a shell."""
    return shlex.join(["deit-transfer", *_words])


def describe_environment() -> dict[str, Any]:
    """Return versions, processor, GPU, source commit and command line, as plain values."""
    import torch

    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _source_commit(),
        "command": ["deit-transfer", *_words],
    }


def processor_name() -> str:
    """Return the processor's model name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _source_commit() -> str | None:
    """Return the checkout's commit, with + when files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
