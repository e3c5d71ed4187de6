"""What goes wrong in the runs of these tests: put in their processes before they start."""

import math
import resource
import time
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class SmallDisk:
    """Let no file grow beyond a size, as a full disk or a quota does."""

    largest_bytes: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest_bytes, self.largest_bytes))


@dataclass(frozen=True)
class NotANumber:
    """Make the loss of one forward pass NaN."""

    call: int

    def __call__(self) -> None:
        from deit_transfer.training import build

        make, calls = build.objective, 0

        def objective(*given: Any) -> Any:
            judge = make(*given)

            def loss(*values: Any) -> Any:
                nonlocal calls
                calls += 1
                return judge(*values) * (math.nan if calls == self.call else 1.0)

            return loss

        build.objective = objective


@dataclass(frozen=True)
class OutOfMemory:
    """Let no forward pass of more than so many images fit."""

    largest: int

    def __call__(self) -> None:
        import torch

        from deit_transfer.models.classifier import Classifier

        forward = Classifier.forward

        def limited(self_: Any, images: Any) -> Any:
            if self_.training and len(images) > self.largest:
                raise torch.OutOfMemoryError(f"{len(images)} images do not fit")
            return forward(self_, images)

        Classifier.forward = limited


@dataclass(frozen=True)
class StuckLoader:
    """Let the images of one step of the second epoch never come, as on a dead network disk."""

    def __call__(self) -> None:
        from deit_transfer.data.pipeline.loader import TrainSamples

        load = TrainSamples.__getitem__

        def stuck(self_: Any, keys: Any) -> Any:
            if keys.epoch == 1:
                time.sleep(600)
            return load(self_, keys)

        TrainSamples.__getitem__ = stuck


def nothing_to_decide() -> None:
    """Come to the making of the run's folder at once."""
    from deit_transfer.training import train

    train.set_up_run = train.find_teacher = lambda *_given, **_named: None


def every_score_is_worse() -> None:
    """Make each scoring a little worse than the one before, so that the first epoch is the best."""
    from deit_transfer.training import trainer

    score, calls = trainer.head_scores, 0

    def worse(predictions: Any) -> Any:
        nonlocal calls
        calls += 1
        return {name: replace(s, top1=50.0 - calls) for name, s in score(predictions).items()}

    trainer.head_scores = worse
