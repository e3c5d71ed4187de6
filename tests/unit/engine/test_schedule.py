"""Compare the learning rate with its closed form and with timm's scheduler."""

import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from deit_transfer.engine.schedule import apply_lr, learning_rate, learning_rate_deit
from deit_transfer.errors import UsageError


def make_sgd(lr: float, scales: tuple[float, ...] = ()) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in scales]
    return torch.optim.SGD(groups or [nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_equals_timm_in_update_mode(warmup: int) -> None:
    total, peak, floor, start = 40, 3e-4, 1e-6, 1e-7
    optimizer = make_sgd(peak)
    timm = CosineLRScheduler(
        optimizer,
        t_initial=total - warmup,
        lr_min=floor,
        warmup_t=warmup,
        warmup_lr_init=start,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    for step in range(total + 2):
        timm.step_update(step)
        ours = learning_rate(
            step,
            total_steps=total,
            warmup_steps=warmup,
            peak_lr=peak,
            floor_lr=floor,
            warmup_lr=start,
        )
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step


@pytest.mark.parametrize("warmup_epochs", [0, 2, 5])
def test_deit_form_equals_timm_stepped_as_the_reference_does(warmup_epochs: int) -> None:
    epochs, steps_per_epoch, peak, floor, start = 12, 3, 5e-4, 1e-5, 1e-6
    optimizer = make_sgd(peak)
    timm = CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=floor, warmup_t=warmup_epochs, warmup_lr_init=start
    )
    for epoch in range(epochs):
        for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
            ours = learning_rate_deit(
                step,
                steps_per_epoch=steps_per_epoch,
                epochs=epochs,
                warmup_epochs=warmup_epochs,
                peak_lr=peak,
                floor_lr=floor,
                warmup_lr=start,
            )
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), epoch
        timm.step(epoch)


def test_passes_through_its_corners() -> None:
    def lr(step: int) -> float:
        return learning_rate(
            step,
            total_steps=110,
            warmup_steps=10,
            peak_lr=1.0,
            floor_lr=0.2,
            warmup_lr=0.1,
        )

    assert lr(0) == pytest.approx(0.1)
    assert lr(5) == pytest.approx(0.55)
    assert lr(10) == pytest.approx(1.0)
    assert lr(60) == pytest.approx(0.6)
    assert lr(35) == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)))
    assert lr(110) == lr(500) == pytest.approx(0.2)


def test_floor_above_peak_is_refused() -> None:
    with pytest.raises(UsageError, match="floor_lr 1e-05 lies above the scaled peak_lr 5e-06"):
        learning_rate(0, total_steps=10, peak_lr=5e-6, floor_lr=1e-5)
    with pytest.raises(UsageError, match="warmup_lr"):
        learning_rate(0, total_steps=10, peak_lr=5e-7, warmup_lr=1e-6)
    with pytest.raises(UsageError, match="warm-up of 10 steps"):
        learning_rate(0, total_steps=10, warmup_steps=10, peak_lr=1.0)


def test_layer_scales_are_kept() -> None:
    optimizer = make_sgd(1.0, scales=(1.0, 0.5))
    apply_lr(optimizer, 0.2)
    apply_lr(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]
