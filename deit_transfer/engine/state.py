"""The training state: all that an optimizer update needs, built once and handed to the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from deit_transfer.batch import Batch
from deit_transfer.engine.distributed import World
from deit_transfer.engine.ema import Ema
from deit_transfer.engine.losses import Objective
from deit_transfer.engine.optimizer import check_coverage
from deit_transfer.engine.precision import Precision

BatchTransform = Callable[[Batch], tuple[Tensor, Tensor]]
TeacherFunction = Callable[[Tensor, Batch], Tensor]


class StepBatches(Protocol):
    """What the loader delivers for one step: this process's share of the global batch."""

    @property
    def micro_batches(self) -> Sequence[Batch]: ...
    @property
    def numbers(self) -> Sequence[int]: ...
    @property
    def global_batch_size(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...


@dataclass(kw_only=True)
class TrainState:
    """A model in training, with what updates it. Only tensors and `forward_size` change.

    Args:
        model: Maps images (B, 3, H, W) to HeadLogits. Each step puts it into training mode.
        optimizer: Over every trainable parameter of the model.
        objective: The loss, from `make_objective`.
        batch_transforms: Turns a batch on the device into normalized, mixed images (B, 3, H, W)
            and targets (B, K). It may draw from the global generators, and from nothing else.
        lr_at: The learning rate of a step.
        precision: Of the forward passes.
        device: Where model and optimizer are.
        seed: Of the run.
        augment_seed: Of mixing and erasing.
        scaler: From `precision.make_scaler()`.
        ema: Updated after each update of the model.
        teacher: Maps (images, batch) to logits (B, K); it sees what the student sees.
        clip_grad_norm: Largest norm of the whole gradient; None leaves it alone.
        forward_size: Images per forward pass; None for whole micro-batches. When memory runs out
            it halves and the step is done again; batch, gradient and learning rate stay. Batch
            norms (no DeiT has any) see the smaller passes.
        world: The processes of this run.

    Raises:
        ValueError: The optimizer misses a trainable parameter.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    batch_transforms: BatchTransform
    lr_at: Callable[[float], float]
    precision: Precision
    device: torch.device
    seed: int
    augment_seed: int
    scaler: GradScaler
    ema: Ema | None = None
    teacher: TeacherFunction | None = None
    clip_grad_norm: float | None = None
    forward_size: int | None = None
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        check_coverage(self.model, self.optimizer)
        # once: walking over all modules at every step costs as much as a small kernel a layer
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]

    def images_per_forward(self, work: StepBatches) -> int:
        """Return the size of the largest forward pass of a step."""
        largest = max(len(batch.labels) for batch in work.micro_batches)
        return min(largest, self.forward_size or largest)
