"""Decide whether a run compiles its network and captures its steps, with the reason."""

from dataclasses import dataclass

import torch
from torch import nn

from deit_transfer.engine.distributed import World, batch_norm_statistics
from deit_transfer.engine.precision import Precision
from deit_transfer.errors import UsageError
from deit_transfer.models.compile import why_no_compiler
from deit_transfer.recipe.schema import Recipe

# A guess: capturing costs a few uncaptured steps' time, and three uncaptured steps go before it.
MIN_CAPTURED_STEPS = 50
# Of the step's time, the least that compiling saved on an H200: DeiT-B, 128 images, 2,422 -> 2,951
# img/s (docs/performance.md). Smaller networks save more.
COMPILING_SAVES = 0.18
# A whole DeiT-Ti took about 20 s there; blocks that share their code should take less.
COMPILING_S = 20.0


@dataclass(frozen=True)
class StepChoice:
    """Whether one way to make steps faster is used, and why; the reason is shown in the header."""

    on: bool
    reason: str = ""


def choose_compiling(
    recipe: Recipe, device: torch.device, *, estimated_s: float | None
) -> StepChoice:
    """Decide whether to compile: as set; auto does on a GPU where it earns its time back.

    Rule: compile if the estimated training time x COMPILING_SAVES is above COMPILING_S. The time is
    that of the whole run, so that a resumed run is computed as it began.

    Args:
        recipe: The recipe.
        device: Where the network is.
        estimated_s: Seconds of all training steps, uncompiled; None where nothing was timed.
    """
    if recipe.run.compile != "auto":
        return StepChoice(recipe.run.compile)
    if device.type != "cuda":
        return StepChoice(False)
    saved_s = COMPILING_SAVES * (estimated_s or 0.0)
    if saved_s <= COMPILING_S:
        return StepChoice(
            False,
            f"not compiled: saves about {saved_s:.0f} s, takes about {COMPILING_S:.0f} s",
        )
    if reason := why_no_compiler(device):
        return StepChoice(False, f"not compiled: {reason}")
    return StepChoice(True, f"saves about {saved_s:.0f} s for about {COMPILING_S:.0f} s")


def choose_capture(
    recipe: Recipe,
    network: nn.Module,
    device: torch.device,
    precision: Precision,
    *,
    total_steps: int,
    world: World,
) -> StepChoice:
    """Decide whether steps are replayed as a CUDA graph: as set; auto does where it can.

    Raises:
        UsageError: run.graph is true, and a step of this run cannot be captured.
    """
    if recipe.run.graph is False:
        return StepChoice(False)
    obstacle = why_not_captured(recipe, network, device, precision, world=world)
    if recipe.run.graph is True:
        if obstacle:
            raise UsageError(
                f"run.graph: steps cannot be captured as a CUDA graph: {obstacle}",
                hint="Leave run.graph out: auto captures them where it can",
            )
        return StepChoice(True)
    if device.type != "cuda":
        return StepChoice(False)
    if obstacle:
        return StepChoice(False, f"steps not captured: {obstacle}")
    if total_steps < MIN_CAPTURED_STEPS:
        return StepChoice(
            False, f"steps not captured: {total_steps} are fewer than {MIN_CAPTURED_STEPS}"
        )
    return StepChoice(True, f"auto, from {MIN_CAPTURED_STEPS} steps on")


def why_not_captured(
    recipe: Recipe,
    network: nn.Module,
    device: torch.device,
    precision: Precision,
    *,
    world: World,
) -> str:
    """Return what keeps the steps of a run from being captured; nothing if they can be."""
    per_process = -(-recipe.schedule.batch_size // world.size)
    parts = -(-per_process // (recipe.schedule.micro_batch_size or per_process))
    if device.type != "cuda":
        return f"the device is {device.type}, not a CUDA GPU"
    if world.size > 1:
        return f"{world.size} processes sum their gradients between them"
    if parts > 1:
        return f"a step has {parts} micro-batches"
    return why_read_at_once(recipe, network, precision)


def why_read_at_once(recipe: Recipe, network: nn.Module, precision: Precision) -> str:
    """Return what keeps the numbers of a step from being read after the next has begun."""
    if precision.name == "fp16":
        return "the loss scaler of fp16 looks at each gradient"
    if recipe.optim.name != "adamw":
        return f"{recipe.optim.name} cannot leave out an update on the device, as AdamW can"
    if recipe.run.nonfinite == "rollback":
        return "rollback looks at each loss before the next step"
    return "the network has batch norms" if batch_norm_statistics(network) else ""
