"""Time the network for a moment to estimate a run, and fit a run into a time budget.

Under a budget the schedule follows the clock: after every step, the steps that fit into the time
that is left are counted anew, and the learning rate moves on by its share of them.
"""

import time
from dataclasses import dataclass, replace

import torch
from timm.layers import PatchDropout
from torch import nn

from deit_transfer.engine.precision import Precision
from deit_transfer.recipe.durations import Durations, resolution_at
from deit_transfer.recipe.schema import Recipe

SAMPLE_IMAGES = 8
SAMPLE_SECONDS = 0.5
# a forward pass takes a third of a training step
FORWARD_SHARE = 1 / 3
# writing the weights, the predictions and the result
WRITING_S = 1.0
# of the latest measurement, in the moving averages of seconds per step
NEWEST_SHARE = 0.1


def images_per_second(
    model: nn.Module,
    *,
    resolution: int,
    batch_size: int,
    device: torch.device,
    precision: Precision,
) -> float:
    """Return how many images a second go forward and backward, timed for about half a second.

    The network's weights, statistics and gradients are left as they were.
    """
    num_images = min(SAMPLE_IMAGES if device.type == "cpu" else batch_size, batch_size)
    images = torch.zeros(num_images, 3, resolution, resolution, device=device)
    was_training = model.training
    model.eval()  # batch norms keep their statistics
    for module in model.modules():
        if isinstance(module, PatchDropout):
            module.train()  # what it leaves out costs nothing
    try:
        _forward_backward(model, images, precision)
        rounds, started = 0, time.perf_counter()
        while time.perf_counter() - started < SAMPLE_SECONDS:
            _forward_backward(model, images, precision)
            rounds += 1
        return rounds * num_images / (time.perf_counter() - started)
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)


def training_seconds(
    plan: Durations, recipe: Recipe, *, resolution: int, speeds: dict[int, float]
) -> float:
    """Return the estimated seconds of all steps, given images per second by resolution."""
    seconds = [
        plan.images_per_epoch
        / speeds[
            resolution_at(recipe.schedule, epoch=epoch, epochs=plan.epochs, resolution=resolution)
        ]
        for epoch in range(plan.epochs)
    ]
    return sum(seconds) * plan.total_steps / (plan.epochs * plan.steps_per_epoch)


@dataclass(kw_only=True)
class TimeBudget:
    """The time that a run may take, and how long its parts were measured to take.

    Args:
        deadline: On the clock of `time.monotonic`.
        scoring_s: Seconds that the scoring of the test split will take.
        epoch_end_s: Seconds that saving and validating take after an epoch.
        step_s: Seconds of a step, estimated before the first.
    """

    deadline: float
    scoring_s: float
    epoch_end_s: float
    step_s: float
    _measured_steps: int = 0

    def fit(self, plan: Durations) -> Durations:
        """Return a plan that fits into the time that is left: shortened, or lengthened."""
        total_steps = max(1, self.steps_left(plan.steps_per_epoch))
        warmup_share = plan.warmup_steps / plan.total_steps
        return replace(
            plan,
            total_steps=total_steps,
            epochs=-(-total_steps // plan.steps_per_epoch),
            warmup_steps=min(round(warmup_share * total_steps), total_steps - 1),
            raised=False,
        )

    def measured_step(self, seconds: float) -> None:
        """Take in how long a step took: a mean at first, later a moving one."""
        self._measured_steps += 1
        self.step_s += max(1 / self._measured_steps, NEWEST_SHARE) * (seconds - self.step_s)

    def steps_left(self, steps_per_epoch: int) -> int:
        """Return how many steps fit into the time that is left before the end's scoring."""
        left = self.deadline - time.monotonic() - self.scoring_s - WRITING_S - self.epoch_end_s
        each = self.step_s + self.epoch_end_s / steps_per_epoch
        return max(0, int(left / max(each, 1e-9)))


def _forward_backward(model: nn.Module, images: torch.Tensor, precision: Precision) -> None:
    with precision.autocast():
        heads = model(images)
    present = [logits.float().square().mean() for logits in heads if logits is not None]
    loss = torch.stack(present).sum()
    loss.backward()
    loss.item()  # waits for the device
