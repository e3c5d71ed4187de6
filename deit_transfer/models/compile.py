"""Compile a network with torch.compile, and report a missing compiler before the first step."""

from typing import Any

import torch
from torch import nn

from deit_transfer.errors import ResourceError

# Draws of drop path and dropout are those of the uncompiled network.
OPTIONS = {"fallback_random": True}
# Of one function: 24 blocks, each at three shapes. Above torch's limit of 8 they run uncompiled.
MOST_VERSIONS = 72


def compile_network(network: nn.Module, *, device: torch.device, backend: str = "inductor") -> None:
    """Compile a network in place: each of its blocks, or the whole where it has none.

    The blocks of a transformer share their code, which is generated once for each shape of their
    input; with drop path, whose rate grows from block to block, each has code of its own. The
    weights keep their names, and copies of the network are not compiled.

    Args:
        network: Already on `device`.
        device: Where it will run.
        backend: torch's name for what generates the code.

    Raises:
        ResourceError: No code can be generated here, for want of a compiler or of Triton.
    """
    if reason := why_no_compiler(device, backend=backend):
        raise ResourceError(
            f"torch.compile does not work on this machine: {reason}",
            hint="Leave run.compile out, or install what is missing: a C++ compiler such as g++, "
            "and on a GPU Triton",
        )
    torch._dynamo.config.recompile_limit = MOST_VERSIONS
    options = OPTIONS if backend == "inductor" else None
    for part in _compiled_parts(network):
        part.compile(backend=backend, dynamic=False, options=options)


def why_no_compiler(device: torch.device, *, backend: str = "inductor") -> str:
    """Return why torch.compile generates no code here, found by trying; nothing if it does."""
    try:
        torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2, device=device))
    except Exception as error:  # every backend has exceptions of its own
        return " ".join(str(error).split("\n\n")[0].split())  # the rest is for its developers
    return ""


def _compiled_parts(network: nn.Module) -> list[nn.Module]:
    backbone: Any = getattr(network, "backbone", network)
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks) > 0:
        return list(blocks)
    return [network]
