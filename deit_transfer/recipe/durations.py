"""Own turning a recipe's durations into steps, once, before anything is trained."""

import math
from dataclasses import dataclass

from deit_transfer.recipe.schema import Schedule


@dataclass(frozen=True)
class Durations:
    """Hold the length of a run in steps; `raised` tells that min_steps lengthened it."""

    epochs: int
    steps_per_epoch: int
    warmup_steps: int
    raised: bool

    @property
    def total_steps(self) -> int:
        """Return the number of optimiser updates of the whole run."""
        return self.epochs * self.steps_per_epoch


def plan_durations(schedule: Schedule, *, steps_per_epoch: int) -> Durations:
    """Return how long the run is, in whole epochs that reach at least `min_steps`.

    The warm-up keeps its share of the run when the epochs are raised.
    """
    epochs = max(schedule.epochs, math.ceil(schedule.min_steps / steps_per_epoch))
    stretch = epochs / schedule.epochs
    warmup_steps = round(schedule.warmup_epochs * stretch * steps_per_epoch)
    return Durations(
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=min(warmup_steps, epochs * steps_per_epoch - 1),
        raised=epochs > schedule.epochs,
    )


def resolution_at(schedule: Schedule, *, epoch: int, epochs: int, resolution: int) -> int:
    """Return the side in pixels at which an epoch is trained, after `progressive`'s stages."""
    end = 0.0
    for pixels, share in schedule.progressive:
        end += share * epochs
        if epoch < round(end):
            return pixels
    return resolution
