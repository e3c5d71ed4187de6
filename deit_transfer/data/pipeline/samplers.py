"""Sample order as pure functions of (seed, epoch), and its cut into steps and micro-batches.

Nothing here reads images or keeps a state: a run resumes by starting its plan at a later step.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.pipeline.transforms import sample_seed
from deit_transfer.errors import UsageError

Compat = Literal["", "deit"]

# facebookresearch/deit samplers.py, RASampler: an epoch is cut to whole multiples of this.
_DEIT_UNIT = 256

_ORDER_STREAM = 1  # keeps the order's hash apart from the augmentations' seeds


def epoch_order(
    seed: int, epoch: int, n: int, repeats: int = 1, compat: Compat = ""
) -> NDArray[np.int64]:
    """Return the views of one epoch in order, (V, 2): image index and repetition.

    With `repeats` R over 1 (repeated augmentation) each drawn image comes R times in a row, as R
    different augmentations, and the epoch ends after n views all the same: it holds n / R of the
    images. The same for any number of processes.

    Args:
        seed: The run's seed.
        epoch: Epoch from 0.
        n: Images in the split.
        repeats: Views of each image drawn, R.
        compat: "deit" cuts a repeated epoch to a multiple of 256 views, as the paper's code.

    Raises:
        UsageError: compat "deit" with fewer than 256 images, which leaves nothing.

    Source: https://arxiv.org/abs/1902.05509 (repeated augmentation), DeiT's samplers.py.
    """
    views = _num_views(n, repeats, compat)
    order = np.argsort(_hashes(sample_seed(seed, epoch, 0, _ORDER_STREAM), n), kind="stable")
    positions = np.arange(views)
    return np.stack([order[positions // repeats], positions % repeats], axis=1)  # (V, 2)


def _hashes(start: int, n: int) -> NDArray[np.uint64]:
    """Return n well-mixed numbers: the splitmix64 sequence from `start`.

    NumPy's generators may change their streams between versions; a resumed run must not notice.
    """
    state = np.uint64(start) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _num_views(n: int, repeats: int, compat: Compat) -> int:
    if compat != "deit" or repeats == 1:
        return n
    if n < _DEIT_UNIT:
        raise UsageError(
            f"compat 'deit' with repeated augmentation cuts epochs to multiples of {_DEIT_UNIT} "
            f"images; this split has {n}, so that nothing would be left",
            hint="Leave compat out, or set repeats to 1",
        )
    return n // _DEIT_UNIT * _DEIT_UNIT


class EpochViews(NamedTuple):
    """The samples of one epoch: `views` in all, of `unique_images` different images."""

    views: int
    unique_images: int


def epoch_views(
    *,
    num_images: int,
    repeats: int = 1,
    compat: Compat = "",
    batch_size: int = 1,
    drop_last: bool = False,
) -> EpochViews:
    """Count the views of an epoch and the different images among them.

    Repeated augmentation shows as many views with fewer images: with the paper's three
    repetitions "300 epochs" are 100 passes over the images.

    Args:
        num_images: Images in the split.
        repeats: Views of each image drawn.
        compat: As in `epoch_order`.
        batch_size: Images per step, over all processes.
        drop_last: Leave an epoch's last incomplete batch out.
    """
    views = _num_views(num_images, repeats, compat)
    if drop_last:
        views = views // batch_size * batch_size
    return EpochViews(views, -(-views // repeats))


class MicroBatchKeys(NamedTuple):
    """The sample keys of one forward pass; `number` counts micro-batches within the step."""

    number: int
    epoch: int
    resolution: int
    samples: NDArray[np.int64]  # (b, 2): index, repetition


class StepKeys(NamedTuple):
    """This process's share of one optimizer step."""

    step: int
    epoch: int
    global_batch_size: int
    micro_batches: list[MicroBatchKeys]


class StepPlan:
    """The samples of a run, laid out in steps.

    The batch of a step is the same at any number of processes. It is cut into micro-batches,
    which the processes take in turn; where that would leave a process without one, the batch is
    cut evenly instead. The last batch of an epoch may be smaller.

    Args:
        seed: The run's seed.
        num_images: Images in the split.
        batch_size: Images per step, over all processes.
        micro_batch_size: Images per forward pass.
        epochs: Epochs of the run.
        resolution_for_epoch: The images' side in each epoch.
        repeats: Views of each image drawn; see `epoch_order`.
        compat: "deit" cuts epochs as the paper's code, which drops incomplete batches as well.
        rank: This process, from 0.
        world_size: Processes.

    Raises:
        UsageError: No images, no step in an epoch, or a batch with fewer images than processes.
    """

    def __init__(
        self,
        *,
        seed: int,
        num_images: int,
        batch_size: int,
        micro_batch_size: int,
        epochs: int,
        resolution_for_epoch: Callable[[int], int],
        repeats: int = 1,
        compat: Compat = "",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if min(batch_size, micro_batch_size, repeats) < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size {batch_size}, micro_batch_size {micro_batch_size}, repeats "
                f"{repeats}, rank {rank} of {world_size}: each must be positive"
            )
        self.seed = seed
        self.num_images = num_images
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.epochs = epochs
        self.resolution_for_epoch = resolution_for_epoch
        self.repeats = repeats
        self.compat: Compat = compat
        self.rank = rank
        self.world_size = world_size
        self.views = epoch_views(
            num_images=num_images,
            repeats=repeats,
            compat=compat,
            batch_size=batch_size,
            drop_last=compat == "deit",
        )
        self.steps_per_epoch = -(-self.views.views // batch_size)
        self.total_steps = self.steps_per_epoch * epochs
        self._check()

    def _check(self) -> None:
        if self.num_images == 0:
            raise UsageError("the training split has no images")
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"the training split has {self.num_images} images, fewer than one batch of "
                f"{self.batch_size}, and incomplete batches are dropped",
                hint=f"Set --batch-size to {self.num_images} or less",
            )
        smallest = min(self.batch_size, self.views.views % self.batch_size or self.batch_size)
        if smallest < self.world_size:
            raise UsageError(
                f"a batch of {smallest} images cannot be shared by {self.world_size} processes "
                f"({self.views.views} images per epoch in batches of {self.batch_size})",
                hint="Change --batch-size, drop incomplete batches or use fewer processes",
            )

    def steps(self, start_step: int = 0) -> Iterator[StepKeys]:
        """Yield this process's share of each step from `start_step` to the end of the run."""
        for epoch in range(start_step // self.steps_per_epoch, self.epochs):
            order = epoch_order(self.seed, epoch, self.num_images, self.repeats, self.compat)
            order = order[: self.views.views]
            resolution = self.resolution_for_epoch(epoch)
            first = max(0, start_step - epoch * self.steps_per_epoch)
            for position in range(first, self.steps_per_epoch):
                start = position * self.batch_size
                samples = order[start : start + self.batch_size]  # (b, 2)
                yield StepKeys(
                    step=epoch * self.steps_per_epoch + position,
                    epoch=epoch,
                    global_batch_size=len(samples),
                    micro_batches=self._share(samples, epoch, resolution),
                )

    def _share(
        self, samples: NDArray[np.int64], epoch: int, resolution: int
    ) -> list[MicroBatchKeys]:
        if len(samples) > self.micro_batch_size * (self.world_size - 1):
            cuts = np.arange(self.micro_batch_size, len(samples), self.micro_batch_size)
            parts = np.split(samples, cuts)
        else:
            parts = np.array_split(samples, self.world_size)
        return [
            MicroBatchKeys(number, epoch, resolution, parts[number])
            for number in range(self.rank, len(parts), self.world_size)
        ]
