"""The training state: all that an optimizer update needs, built once and handed to the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from deit_transfer.batch import Batch
from deit_transfer.engine.distributed import World, batch_norm_statistics
from deit_transfer.engine.ema import Ema
from deit_transfer.engine.losses import Objective
from deit_transfer.engine.optimizer import check_coverage
from deit_transfer.engine.precision import Precision

BatchTransform = Callable[[Batch], tuple[Tensor, Tensor]]
TeacherFunction = Callable[[Tensor, Batch], Tensor]
Capture = Callable[[Callable[[], None]], Callable[[], None]]


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
        read_late: Read a step's numbers after the next one has started, so that the device never
            waits for this process. An update that is not finite is then left out on the device.
        capture: Turns the work of a step into something that is replayed at each step, such as
            `captured_step.capture_cuda_graph`; None runs it anew each time. Needs read_late.
        teacher_sees_images_only: The teacher's answer follows from the images alone, so that it
            can be captured too.
        copy_stream: The CUDA stream on which batches reach the device while a step runs.

    `notes` are sentences for the user that came up between steps; the caller takes them away.

    Raises:
        ValueError: The optimizer misses a trainable parameter, or a step cannot be read late.
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
    read_late: bool = False
    capture: Capture | None = None
    teacher_sees_images_only: bool = False
    copy_stream: torch.cuda.Stream | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_coverage(self.model, self.optimizer)
        self.norm_statistics = batch_norm_statistics(self.model)
        if self.capture is not None and not self.read_late:
            raise ValueError("a captured step is read late: capture needs read_late")
        if self.read_late and (reason := self.why_not_late()):
            raise ValueError(f"steps cannot be read late: {reason}")
        # once: walking over all modules at every step costs as much as a small kernel a layer
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]

    def why_not_late(self) -> str:
        """Return what keeps the device from leaving out an update by itself; nothing if it can."""
        if self.scaler.is_enabled():
            return "the loss scaler of fp16 looks at each gradient"
        if not getattr(self.optimizer, "_step_supports_amp_scaling", False):
            return "only the fused AdamW leaves out an update by itself"
        return "the network has batch norms" if self.norm_statistics else ""

    def images_per_forward(self, work: StepBatches) -> int:
        """Return the size of the largest forward pass of a step."""
        largest = max(len(batch.labels) for batch in work.micro_batches)
        return min(largest, self.forward_size or largest)
