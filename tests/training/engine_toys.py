"""Hold a network, a data stream and a teacher small enough to train in milliseconds.

Everything is stochastic where the real parts are: dropout in the network, mixing from all three
global generators in `prepare`. A step's global batch is the same for any number of processes.
"""

import inspect
import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deit_transfer.batch import Batch, HeadLogits
from deit_transfer.engine.distributed import World
from deit_transfer.engine.ema import Ema
from deit_transfer.engine.loop import StepReport, train_steps
from deit_transfer.engine.losses import make_objective
from deit_transfer.engine.optimizer import make_optimizer
from deit_transfer.engine.precision import resolve_precision
from deit_transfer.engine.seed import seed_model
from deit_transfer.engine.state import TrainState

CPU = torch.device("cpu")
# One server imports torch once; each process of a test is a quick copy of it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "deit_transfer.engine.loop"])

K, PIXELS, IMAGES = 4, 12, 64
STEPS_PER_EPOCH = 3


class ToyNet(nn.Module):
    def __init__(self, *, distilled: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(PIXELS, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(8, K)
        self.head_dist = nn.Linear(8, K) if distilled else None

    def forward(self, images: Tensor) -> HeadLogits:
        features = self.body(images.flatten(1))
        distill = None if self.head_dist is None else self.head_dist(features)
        return HeadLogits(self.head(features), distill)


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, K)

    def forward(self, images: Tensor) -> HeadLogits:
        return HeadLogits(self.head(self.norm(self.conv(images)).relu().mean((2, 3))), None)


@dataclass(frozen=True)
class ToyStep:
    micro_batches: list[Batch]
    numbers: list[int]
    global_batch_size: int
    epoch: int
    step: int


def pixels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(99)
    images = torch.randint(0, 256, (IMAGES, 3, 2, 2), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, K, (IMAGES,), generator=generator)


def toy_steps(
    *,
    steps: int,
    start: int = 0,
    batch_size: int = 7,
    micro_batch_size: int = 2,
    world: World | None = None,
) -> Iterator[ToyStep]:
    world = world or World()
    images, labels = pixels()
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randperm(IMAGES, generator=generator)[:batch_size]
        parts = list(enumerate(chosen.split(micro_batch_size)))[world.rank :: world.size]
        epoch = step // STEPS_PER_EPOCH
        yield ToyStep(
            micro_batches=[
                Batch(images[part], labels[part], part, torch.zeros_like(part), epoch)
                for _, part in parts
            ],
            numbers=[number for number, _ in parts],
            global_batch_size=batch_size,
            epoch=epoch,
            step=step,
        )


def prepare_plainly(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.images.float() / 255 - 0.5, F.one_hot(batch.labels, K).float()


def prepare(batch: Batch) -> tuple[Tensor, Tensor]:
    images, targets = prepare_plainly(batch)
    mixed = random.uniform(0.7, 1.0) * float(np.random.uniform(0.9, 1.0))
    images = images + 0.1 * torch.randn_like(images)
    images = mixed * images + (1 - mixed) * images.flip(0)
    return images, mixed * targets + (1 - mixed) * targets.flip(0)


def toy_teacher(images: Tensor, batch: Batch) -> Tensor:
    assert len(images) == len(batch.labels) == len(batch.indices)
    generator = torch.Generator().manual_seed(5)
    return images.flatten(1) @ torch.randn(PIXELS, K, generator=generator)


def lr_at(step: int) -> float:
    return 0.02 / (1 + step)


@dataclass
class Setup:
    """A run's parts, made alike from one seed each time."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None

    @classmethod
    def make(
        cls,
        *,
        optimizer: str = "adamw",
        ema: bool = True,
        model: nn.Module | None = None,
        seed: int = 0,
    ) -> "Setup":
        if model is None:
            seed_model(seed)
            model = ToyNet()
        made = make_optimizer(model, name=optimizer, peak_lr=0.02, weight_decay=0.1)
        return cls(model, made, Ema(model, decay=0.6) if ema else None)

    def train(self, batches: Iterator[ToyStep], **values: Any) -> list[StepReport]:
        return list(self.steps(batches, **values))

    def steps(self, batches: Iterator[ToyStep], **values: Any) -> Iterator[StepReport]:
        given: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "ema": self.ema,
            "batch_transforms": prepare,
            "objective": make_objective(kind="soft", alpha=0.3),
            "teacher": toy_teacher,
            "lr_at": lr_at,
            "precision": resolve_precision("fp32", CPU),
            "device": CPU,
            "seed": 11,
            "clip_grad_norm": 1.0,
        }
        given["precision"] = values.pop("precision", given["precision"])
        given["scaler"] = given["precision"].make_scaler()
        given["augment_seed"] = values.get("seed", given["seed"])
        for name in [name for name in values if name in inspect.signature(TrainState).parameters]:
            given[name] = values.pop(name)
        return train_steps(TrainState(**given), batches, **values)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a run leaves behind, by name."""
        found = dict(self.model.state_dict())
        if self.ema:
            found |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                found[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
        return {name: value.detach().clone() for name, value in found.items()}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def numbers_of(reports: list[StepReport]) -> list[tuple[Any, ...]]:
    """The reports without their times."""
    return [
        (r.step, r.epoch, r.loss, r.lr, r.images, r.grad_norm, r.teacher_agreement, r.teacher_top1)
        for r in reports
    ]
