"""Compile a network with torch.compile, and report a missing compiler before the first step."""

import torch
from torch import nn

from deit_transfer.errors import ResourceError


def compile_network(network: nn.Module, *, device: torch.device, backend: str = "inductor") -> None:
    """Compile a network in place; its first passes take a minute.

    The weights keep their names, and copies of the network are not compiled.

    Args:
        network: Already on `device`.
        device: Where it will run.
        backend: torch's name for what generates the code.

    Raises:
        ResourceError: No code can be generated here, for want of a compiler or of Triton.
    """
    try:
        torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2, device=device))
    except Exception as error:  # every backend has exceptions of its own
        reason = " ".join(str(error).split("\n\n")[0].split())  # the rest is for its developers
        raise ResourceError(
            f"torch.compile does not work on this machine: {reason}",
            hint="Leave run.compile out, or install what is missing: a C++ compiler such as g++, "
            "and on a GPU Triton",
        ) from error
    network.compile(backend=backend)
