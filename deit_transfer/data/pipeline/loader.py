"""Data loading: which images are read, decoded, augmented and stacked for each step.

A training batch is a function of the plan alone: neither the number of workers nor the step a
run was resumed at changes a byte of it. One set of workers serves a whole run and works ahead
across the edges of epochs.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from deit_transfer.batch import Batch
from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline.decode_cache import Progress, Reader, open_reader
from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.data.pipeline.samplers import MicroBatchKeys, StepPlan
from deit_transfer.data.pipeline.transforms import EvalTransform, TrainTransform, sample_seed
from deit_transfer.data.pipeline.workers import BadImage, Stack, WorkerBatch, WorkerBatches
from deit_transfer.errors import DataError, ImageError, ResourceError

# A guess: so many unreadable images drawn one after the other are no accident.
_MAX_REPLACEMENTS = 16
_MAX_LISTED = 10


class LoadedStep(NamedTuple):
    """This process's micro-batches of one optimizer step.

    `numbers` counts them within the step over all processes, and `global_batch_size` the step's
    images over all processes.
    """

    micro_batches: list[Batch]
    numbers: list[int]
    global_batch_size: int
    epoch: int
    step: int


def train_batches(
    images: ImageSet,
    plan: StepPlan,
    *,
    transform_for: Callable[[int], TrainTransform],
    start_step: int = 0,
    workers: int = 0,
    decode_cache_mb: int = 0,
    pin_memory: bool = False,
    progress: Progress | None = None,
) -> "TrainBatches":
    """Build the training batches of a whole run, from `start_step` on.

    Args:
        images: The training split.
        plan: Which images make up each step; the augmentation follows from its seed too.
        transform_for: Returns the training transform for a resolution.
        start_step: Steps done before.
        workers: DataLoader workers; 0 loads in this process, to the same bytes.
        decode_cache_mb: Memory for a split decoded beforehand; see `open_reader`.
        pin_memory: Page-lock batches for a CUDA device; torch warns where there is none.
        progress: Called while the split is decoded beforehand; may raise to stop.
    """
    # Built here, once, and not in each worker.
    resolutions = sorted({plan.resolution_for_epoch(epoch) for epoch in range(plan.epochs)})
    samples = TrainSamples(
        images,
        reader=open_reader(images, decode_cache_mb=decode_cache_mb, progress=progress),
        transforms={resolution: transform_for(resolution) for resolution in resolutions},
        seed=plan.seed,
    )
    return TrainBatches(
        plan=plan, samples=samples, start_step=start_step, workers=workers, pin_memory=pin_memory
    )


class TrainBatches:
    """Yields a run's `LoadedStep`s; `replaced` lists the unreadable images so far.

    A second iteration starts at `start_step` again. `notes` lists what the loader processes had to
    do differently, in sentences for the user. `while_waiting`, where it is set, is called about
    once a second while a batch is awaited from them; it may raise to stop.
    """

    def __init__(
        self,
        *,
        plan: StepPlan,
        samples: "TrainSamples",
        start_step: int,
        workers: int,
        pin_memory: bool,
    ) -> None:
        self.plan = plan
        self.start_step = start_step
        self.replaced: list[BadImage] = []
        self.notes: list[str] = []
        self.while_waiting: Callable[[], None] | None = None
        self._samples = samples
        self._workers = workers
        self._pin_memory = pin_memory

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.plan.total_steps

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[LoadedStep]:
        self.replaced.clear()
        # The workers read the plan ahead of this process, which therefore follows its own copy.
        keys = (
            micro_batch
            for step in self.plan.steps(self.start_step)
            for micro_batch in step.micro_batches
        )
        deliveries = WorkerBatches(
            self._samples, keys, workers=self._workers, pin_memory=self._pin_memory
        )
        self.notes, deliveries.while_waiting = deliveries.notes, self.while_waiting
        for step in self.plan.steps(self.start_step):
            micro_batches = []
            for _ in step.micro_batches:
                delivery = next(deliveries)
                assert delivery.batch is not None
                self.replaced.extend(delivery.bad)
                micro_batches.append(delivery.batch)
            numbers = [micro_batch.number for micro_batch in step.micro_batches]
            yield LoadedStep(micro_batches, numbers, step.global_batch_size, step.epoch, step.step)


class TrainSamples(Dataset[WorkerBatch]):
    """Makes the training micro-batch of given keys; runs in the workers."""

    def __init__(
        self,
        images: ImageSet,
        *,
        reader: Reader,
        transforms: dict[int, TrainTransform],
        seed: int,
    ) -> None:
        self.images = images
        self.reader = reader
        self.transforms = transforms
        self.seed = seed

    def __getitem__(self, keys: MicroBatchKeys) -> WorkerBatch:
        transform = self.transforms[keys.resolution]
        stack = Stack(len(keys.samples))
        indices: list[int] = []
        bad: list[BadImage] = []
        for index, repetition in keys.samples.tolist():
            try:
                pixels, used = self._read(index, keys.epoch, repetition, bad)
            except (DataError, ResourceError) as error:
                return WorkerBatch(None, bad, error)
            # What was used is what the batch names, so that its name still tells the view.
            stack.add(transform(pixels, sample_seed(self.seed, keys.epoch, used, repetition)))
            indices.append(used)
        batch = Batch(
            images=stack.images,
            labels=torch.from_numpy(self.images.labels[indices]),
            indices=torch.tensor(indices),
            repetitions=torch.from_numpy(keys.samples[:, 1].copy()),
            epoch=keys.epoch,
        )
        return WorkerBatch(batch, bad)

    def _read(
        self, index: int, epoch: int, repetition: int, bad: list[BadImage]
    ) -> tuple[Pixels, int]:
        """Return an image's pixels and index, or those of one drawn in its place."""
        draw = sample_seed(self.seed, epoch, index, repetition)
        candidate, failures = index, []
        for attempt in range(_MAX_REPLACEMENTS):
            try:
                pixels = self.reader.pixels(candidate)
            except ImageError as error:
                failures.append(error.message)
                candidate = sample_seed(draw, attempt, 0, 0) % len(self.images)
            else:
                if failures:
                    name = self.images.ids[index]
                    bad.append(BadImage(index, name, failures[0], epoch, candidate))
                return pixels, candidate
        listed = "".join(f"\n  - {failure}" for failure in failures[:_MAX_LISTED])
        raise DataError(
            f"{len(failures)} images drawn one after the other cannot be read:{listed}",
            hint="`deit-transfer data check` lists every image that cannot be read",
        )


def eval_batches(
    images: ImageSet,
    *,
    transform: EvalTransform,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    allow_bad: bool = False,
    decode_cache_mb: int = 0,
    pin_memory: bool = False,
    progress: Progress | None = None,
) -> "EvalBatches":
    """Build the batches that show each image of a split exactly once, in order.

    Args:
        images: The split.
        transform: The evaluation view.
        batch_size: Images per forward pass.
        workers: Loader processes.
        rank: This process; it takes the images rank, rank + world_size, ...
        world_size: Processes.
        allow_bad: Deliver a black image for one that cannot be read, and list it in `bad` to be
            counted as wrong; otherwise it is an error.
        decode_cache_mb: Memory for a split decoded beforehand; see `open_reader`.
        pin_memory: Page-lock batches for a CUDA device.
        progress: Called while the split is decoded beforehand; may raise to stop.
    """
    samples = EvalSamples(
        images,
        reader=open_reader(images, decode_cache_mb=decode_cache_mb, progress=progress),
        transform=transform,
    )
    mine = np.arange(rank, len(images), world_size)
    return EvalBatches(
        samples=samples,
        keys=[mine[start : start + batch_size] for start in range(0, len(mine), batch_size)],
        workers=workers,
        allow_bad=allow_bad,
        pin_memory=pin_memory,
    )


class EvalBatches:
    """Yields a split's batches, once per iteration; `bad` lists the unreadable images.

    `notes` and `while_waiting` are as in `TrainBatches`.

    Raises:
        DataError: While iterating, at the first batch with such images, unless they are allowed.
    """

    def __init__(
        self,
        *,
        samples: "EvalSamples",
        keys: "list[np.ndarray]",
        workers: int,
        allow_bad: bool,
        pin_memory: bool,
    ) -> None:
        self.bad: list[BadImage] = []
        self.notes: list[str] = []
        self.while_waiting: Callable[[], None] | None = None
        self._samples = samples
        self._keys = keys
        self._workers = workers
        self._allow_bad = allow_bad
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def num_images(self) -> int:
        """Count the images of this process's share."""
        return sum(map(len, self._keys))

    def __iter__(self) -> Iterator[Batch]:
        self.bad.clear()
        workers = min(self._workers, len(self._keys))
        deliveries = WorkerBatches(
            self._samples, self._keys, workers=workers, pin_memory=self._pin_memory
        )
        self.notes, deliveries.while_waiting = deliveries.notes, self.while_waiting
        for delivery in deliveries:
            assert delivery.batch is not None
            self.bad.extend(delivery.bad)
            if self.bad and not self._allow_bad:
                raise _unreadable(self.bad)
            yield delivery.batch


class EvalSamples(Dataset[WorkerBatch]):
    """Makes the evaluation batch of given indices; runs in the workers."""

    def __init__(self, images: ImageSet, *, reader: Reader, transform: EvalTransform) -> None:
        self.images = images
        self.reader = reader
        self.transform = transform

    def __getitem__(self, indices: np.ndarray) -> WorkerBatch:
        stack = Stack(len(indices))
        bad: list[BadImage] = []
        for index in indices.tolist():
            try:
                stack.add(self.transform(self.reader.pixels(index)))
            except ImageError as error:
                bad.append(BadImage(index, self.images.ids[index], error.message))
                stack.add(self.transform(np.zeros((1, 1, 3), np.uint8)))
            except ResourceError as error:
                return WorkerBatch(None, bad, error)
        batch = Batch(
            images=stack.images,
            labels=torch.from_numpy(self.images.labels[indices]),
            indices=torch.from_numpy(indices),
            repetitions=torch.zeros(len(indices), dtype=torch.int64),
            epoch=0,
        )
        return WorkerBatch(batch, bad)


def _unreadable(bad: list[BadImage]) -> DataError:
    listed = "".join(f"\n  - {image.reason}" for image in bad[:_MAX_LISTED])
    more = f"\n  - and {len(bad) - _MAX_LISTED} more" if len(bad) > _MAX_LISTED else ""
    return DataError(
        f"{len(bad)} image(s) of the evaluation split cannot be read, so that its figures would "
        f"not be comparable:{listed}{more}",
        hint="Restore the files, or train with --set data.allow_bad=true, which counts them as "
        "wrong",
    )
