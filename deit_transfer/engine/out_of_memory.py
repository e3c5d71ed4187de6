"""Recognize out-of-memory errors of the CPU and of CUDA."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deit_transfer.errors import ResourceError

# Besides PyTorch's own exception: the CPU allocator's message, and those of cuBLAS and cuDNN when
# they find no room for their workspace.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


@contextmanager
def named_memory_errors(place: str) -> Iterator[None]:
    """Turn an out-of-memory error into one sentence with the place and a way out.

    Raises:
        ResourceError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"out of memory at {place}: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="Choose a smaller model or resolution, or free the device's memory",
        ) from error
