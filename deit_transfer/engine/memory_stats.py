"""Memory use of a device, and waiting for a device to finish."""

import contextlib
import gc
import sys
from pathlib import Path

import psutil
import torch


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def free_cached_memory(device: torch.device) -> None:
    """Give back what Python and a device's allocator hold without need."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def free_memory() -> float:
    """Return the bytes that the system can still give a process."""
    return float(psutil.virtual_memory().available)


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from here, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # 5 asks Linux to forget the largest size the process had: man proc_pid_clear_refs
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> float:
    """Return the most bytes in use since `reset_peak_memory`.

    On CUDA these are the tensors on the GPU, elsewhere the whole process.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(float(x.split()[1]) for x in lines if x.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        import resource  # not on every system

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)
