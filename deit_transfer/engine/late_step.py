"""One training step whose numbers are read later, while the device is at work on the next.

Whether an update is finite is decided on the device: fused AdamW leaves out an update whose
`found_inf` is 1, as under a gradient scaler, and the EMA's weight becomes 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deit_transfer.engine.distributed import sum_gradients
from deit_transfer.engine.schedule import apply_lr
from deit_transfer.engine.state import StepBatches, TrainState
from deit_transfer.engine.step import (
    Outcome,
    clipped_norm,
    gradients_within_memory,
    judge_step,
    step_numbers,
)

LOSS, GRAD_NORM = 0, 3  # places in step_numbers


@dataclass(frozen=True)
class LaunchedStep:
    """A step that the device has been given; `read` waits for it and says what came of it."""

    state: TrainState
    work: StepBatches
    numbers: Tensor  # on the CPU, once `copied` has happened
    copied: "torch.cuda.Event | None"

    def read(self) -> Outcome:
        """Wait for the step, and judge it."""
        if self.copied is not None:
            self.copied.synchronize()
        return judge_step(self.state, self.work, self.numbers.tolist())


def launch_step(state: TrainState, work: StepBatches, lr: float) -> LaunchedStep:
    """Make one update as `step.train_step` does, without waiting for the device.

    Args:
        state: With read_late.
        work: This process's share of the step.
        lr: Of this step, before layer decay.

    Raises:
        ResourceError: Memory ran out at one image per forward pass.
    """
    apply_lr(state.optimizer, lr)
    state.model.train()
    sums = gradients_within_memory(state, work, [])
    sum_gradients(state.trainable, state.world)
    grad_norm = clipped_norm(state.trainable, state.clip_grad_norm)
    numbers = step_numbers(state, sums, grad_norm)
    update_if_finite(state, numbers)
    return launched(state, work, numbers)


def update_if_finite(state: TrainState, numbers: Tensor) -> None:
    """Update model and EMA unless loss or gradient is not finite, which is not read here."""
    finite = numbers[LOSS].isfinite() & numbers[GRAD_NORM].isfinite()
    # The two attributes through which torch's GradScaler talks to an optimizer.
    optimizer: object = state.optimizer
    optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
    try:
        state.optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    if state.ema:
        state.ema.update_where(state.model, finite)


def launched(state: TrainState, work: StepBatches, numbers: Tensor) -> LaunchedStep:
    """Start to copy a step's numbers to the CPU."""
    if numbers.device.type != "cuda":
        return LaunchedStep(state, work, numbers.cpu().clone(), None)
    held = numbers.to("cpu", non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return LaunchedStep(state, work, held, copied)
