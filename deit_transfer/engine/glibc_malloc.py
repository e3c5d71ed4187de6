"""Tell glibc's malloc to keep the memory that a training step frees."""

import ctypes
import sys

# malloc.h of glibc
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_BYTES = 2**31 - 1  # mallopt takes an int


def keep_freed_memory() -> bool:
    """Let freed blocks stay with the process, to be used again by the next step.

    glibc gives blocks over 32 MiB back to the kernel at each free, so the activations of every
    step on a CPU are paid for with page faults anew. Changes no result. Returns whether the C
    library took the setting: only glibc has it.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    thresholds = (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)
    return all(mallopt(which, KEEP_BYTES) == 1 for which in thresholds)
