"""Convert a recipe's durations into steps, once, before anything is trained."""

import math
import sys
from dataclasses import dataclass

from deit_transfer.recipe.schema import Schedule


@dataclass(frozen=True)
class Durations:
    """The length of a run in steps; `raised` means that min_steps lengthened it."""

    epochs: int
    images_per_epoch: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    batch_size: int
    raised: bool

    @property
    def images_to_see(self) -> int:
        """Return the images of all steps; the last batch of an epoch may be smaller."""
        whole_epochs, steps = divmod(self.total_steps, self.steps_per_epoch)
        return whole_epochs * self.images_per_epoch + steps * self.batch_size


def plan_durations(schedule: Schedule, *, images_per_epoch: int) -> Durations:
    """Return how long the run is: whole epochs that reach `min_steps`, cut at `max_steps`.

    The warm-up keeps its share of the run when the run is made longer or shorter.

    Args:
        schedule: What the recipe asks for.
        images_per_epoch: Images that one epoch shows, above 0.
    """
    steps_per_epoch = math.ceil(images_per_epoch / schedule.batch_size)
    epochs = max(schedule.epochs, math.ceil(schedule.min_steps / steps_per_epoch))
    total_steps = min(epochs * steps_per_epoch, schedule.max_steps or sys.maxsize)
    warmup_share = schedule.warmup_epochs / schedule.epochs
    return Durations(
        epochs=math.ceil(total_steps / steps_per_epoch),
        images_per_epoch=images_per_epoch,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        warmup_steps=min(round(warmup_share * total_steps), total_steps - 1),
        batch_size=schedule.batch_size,
        raised=epochs > schedule.epochs,
    )


def resolution_at(schedule: Schedule, *, epoch: int, epochs: int, resolution: int) -> int:
    """Return the side in pixels at which an epoch is trained, after `progressive`'s stages.

    A stage above the run's own resolution (a recipe's stages with a smaller network) is at that.
    """
    end = 0.0
    for pixels, share in schedule.progressive:
        end += share * epochs
        if epoch < round(end):
            return min(pixels, resolution)
    return resolution
