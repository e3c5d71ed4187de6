"""Time the network for a moment, to estimate a run and to fit it into a time budget."""

import time
from dataclasses import replace

import torch
from timm.layers import PatchDropout
from torch import nn

from deit_transfer.engine.precision import Precision
from deit_transfer.recipe.durations import Durations, resolution_at
from deit_transfer.recipe.schema import Recipe

SAMPLE_IMAGES = 8
SAMPLE_SECONDS = 0.5
# loading, scoring and saving take their part of a budget; measured runs stay below this share
TRAINING_SHARE_OF_BUDGET = 0.8


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


def fit_budget(plan: Durations, *, estimated_s: float, budget_s: float) -> Durations:
    """Return a plan shortened, never lengthened, so that its steps fit into a time budget."""
    share = TRAINING_SHARE_OF_BUDGET * budget_s / estimated_s
    if share >= 1:
        return plan
    total_steps = max(2, int(plan.total_steps * share))
    return replace(
        plan,
        total_steps=total_steps,
        epochs=-(-total_steps // plan.steps_per_epoch),
        warmup_steps=min(int(plan.warmup_steps * share), total_steps - 1),
        raised=False,
    )


def _forward_backward(model: nn.Module, images: torch.Tensor, precision: Precision) -> None:
    with precision.autocast():
        heads = model(images)
    present = [logits.float().square().mean() for logits in heads if logits is not None]
    loss = torch.stack(present).sum()
    loss.backward()
    loss.item()  # waits for the device
