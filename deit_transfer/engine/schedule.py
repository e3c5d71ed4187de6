"""Learning rate schedules as pure functions of the step: resuming needs no state."""

import math

from torch.optim import Optimizer

from deit_transfer.errors import UsageError


def learning_rate(
    step: float,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    peak_lr: float,
    floor_lr: float = 0.0,
    warmup_lr: float = 0.0,
) -> float:
    """Return the learning rate of one step: a linear warm-up, then half a cosine.

        step < warmup:  warmup_lr + (peak_lr - warmup_lr) step / warmup
        then:           floor_lr + 1/2 (peak_lr - floor_lr) (1 + cos(pi progress))
        progress:       (step - warmup) / (total - warmup)

    The cosine starts where the warm-up ends, so the peak is reached (timm's warmup_prefix=True).

    Args:
        step: From 0; at total_steps and beyond the floor. A fraction where a time budget stretches
            the schedule.
        total_steps: Steps of the run, above 0.
        warmup_steps: In [0, total_steps).
        peak_lr: Highest rate, already scaled to the batch.
        floor_lr: Last rate of the cosine, not above peak_lr.
        warmup_lr: Rate of step 0, not above peak_lr.

    Raises:
        UsageError: The floor or the start of the warm-up lies above the peak, or the steps clash.
    """
    _check_rates(peak_lr=peak_lr, floor_lr=floor_lr, warmup_lr=warmup_lr)
    if not 0 <= warmup_steps < total_steps:
        raise UsageError(
            f"a warm-up of {warmup_steps} steps does not fit into a run of {total_steps}",
            hint="Shorten the warm-up or lengthen the run",
        )
    if step < warmup_steps:
        return warmup_lr + (peak_lr - warmup_lr) * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    return floor_lr + 0.5 * (peak_lr - floor_lr) * (1 + math.cos(math.pi * progress))


def learning_rate_deit(
    step: float,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: int,
    peak_lr: float,
    floor_lr: float,
    warmup_lr: float,
) -> float:
    """Return the learning rate the reference code uses at a step, its two habits included.

    The rate changes once an epoch, and one epoch late: the scheduler is stepped after epoch e with
    the argument e (reference `main.py`: `lr_scheduler.step(epoch)`), so epochs 0 and 1 both run at
    warmup_lr. The cosine counts from the run's start, not from the warm-up's end.
    """
    _check_rates(peak_lr=peak_lr, floor_lr=floor_lr, warmup_lr=warmup_lr)
    late_epoch = max(0, step // steps_per_epoch - 1)
    if late_epoch < warmup_epochs:
        return warmup_lr + (peak_lr - warmup_lr) * late_epoch / warmup_epochs
    progress = min(1.0, late_epoch / epochs)
    return floor_lr + 0.5 * (peak_lr - floor_lr) * (1 + math.cos(math.pi * progress))


def apply_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the rate of every parameter group, times its own `lr_scale` under layer decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _check_rates(*, peak_lr: float, floor_lr: float, warmup_lr: float) -> None:
    for name, rate in (("floor_lr", floor_lr), ("warmup_lr", warmup_lr)):
        if rate > peak_lr:
            raise UsageError(
                f"{name} {rate:g} lies above the scaled peak_lr {peak_lr:g}: "
                f"the learning rate would {'rise' if name == 'floor_lr' else 'fall'} "
                f"where it should {'fall' if name == 'floor_lr' else 'rise'}",
                hint=f"Set {name} to {peak_lr:g} or less, or raise peak_lr",
            )
