"""One training step: the gradient of a whole global batch, and the optimizer update.

It fits the forward passes to the memory there is, and leaves everything as it was when the loss or
the gradient is not finite; what happens then is for loop to say.
Shapes: B images of one micro-batch, b of one forward pass (b = B unless memory ran out), K classes.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from deit_transfer.batch import Batch, HeadLogits
from deit_transfer.engine.device_copy import copy_to_device
from deit_transfer.engine.distributed import (
    average_batch_norm,
    batch_norm_statistics,
    sum_gradients,
)
from deit_transfer.engine.losses import late_fusion
from deit_transfer.engine.out_of_memory import is_out_of_memory
from deit_transfer.engine.schedule import apply_lr
from deit_transfer.engine.seed import seed_batch_transforms, seed_step
from deit_transfer.engine.state import StepBatches, TrainState
from deit_transfer.errors import ResourceError

# An fp16 scaler starts at 65536 and halves at each overflow; below 1 it is no longer searching for
# a scale, the gradients themselves are too large.
MIN_LOSS_SCALE = 1.0


@dataclass(frozen=True)
class Outcome:
    """What came of one step, over the global batch; `diverged` counts against the policy."""

    applied: bool
    diverged: bool
    loss: float
    grad_norm: float
    suspects: list[int]  # of this process: positions of micro-batches with a non-finite loss
    teacher_agreement: float | None
    teacher_top1: float | None


@dataclass
class StepSums:
    """What a step's forward passes add up to, on the device; each loss weighted by its share."""

    losses: list[Tensor] = field(default_factory=list)  # one per micro-batch
    teacher_correct: list[Tensor] = field(default_factory=list)
    teacher_followed: list[Tensor] = field(default_factory=list)


def train_step(state: TrainState, work: StepBatches, lr: float) -> Outcome:
    """Make one update from the gradient of the whole global batch, unless it is not finite.

    Args:
        learner: What is trained, and how. Its forward_size halves when memory runs out.
        work: This process's share of the step.
        lr: Of this step, before layer decay.

    Raises:
        ResourceError: Memory ran out at one image per forward pass.
    """
    apply_lr(state.optimizer, lr)
    state.model.train()
    statistics = [s.clone() for s in state.norm_statistics]
    sums = gradients_within_memory(state, work, statistics)
    sum_gradients(state.trainable, state.world)
    state.scaler.unscale_(state.optimizer)
    grad_norm = clipped_norm(state.trainable, state.clip_grad_norm)
    outcome = judge_step(state, work, step_numbers(state, sums, grad_norm).tolist())
    if outcome.applied:
        state.scaler.step(state.optimizer)
        share = sum(len(batch.labels) for batch in work.micro_batches) / work.global_batch_size
        average_batch_norm(state.model, state.world, weight=share)
        if state.ema:
            state.ema.update(state.model)
    else:
        _restore_statistics(state.norm_statistics, statistics)
    state.scaler.update()
    return outcome


def gradients_within_memory(
    state: TrainState, work: StepBatches, statistics: list[Tensor]
) -> StepSums:
    """Accumulate the gradients, with smaller and smaller forward passes until they fit.

    Args:
        state: Its forward_size halves when memory runs out.
        work: This process's share of the step.
        statistics: Of the batch norms before the step, to start again from.
    """
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        try:
            return _accumulate(state, work)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = str(error)
        # Outside of `except`: the traceback would keep the failed pass's tensors alive.
        largest = state.images_per_forward(work)
        if largest == 1:
            raise ResourceError(
                f"out of memory at one image per forward pass (step {work.step}): {message}",
                hint="Choose a smaller model or resolution, or free the device's memory",
            )
        state.forward_size = largest // 2
        _restore_statistics(state.norm_statistics, statistics)
        if state.device.type == "cuda":
            torch.cuda.empty_cache()


def _accumulate(state: TrainState, work: StepBatches) -> StepSums:
    """Add up the gradients of all micro-batches, each image weighted 1 / global batch."""
    if not work.micro_batches:
        raise ValueError(f"process {state.world.rank} got no micro-batch at step {work.step}")
    sums = StepSums()
    for number, batch in zip(work.numbers, work.micro_batches, strict=True):
        seed_batch_transforms(state.augment_seed, work.step, number)
        on_device = copy_to_device(batch, state.device, state.copy_stream)
        images, targets = state.batch_transforms(on_device)  # (B, 3, H, W), (B, K)
        seed_step(state.seed, work.step, number)
        size = state.forward_size or len(targets)
        losses = [
            forward_backward(
                state,
                images[rows],
                targets[rows],
                _part(on_device, rows),
                sums,
                weight=len(targets[rows]) / work.global_batch_size,
            )
            for rows in (slice(at, at + size) for at in range(0, len(targets), size))
        ]
        sums.losses.append(torch.stack(losses).sum())
    return sums


def forward_backward(
    state: TrainState,
    images: Tensor,
    targets: Tensor,
    batch: Batch,
    sums: StepSums,
    *,
    weight: float,
    teacher_logits: Tensor | None = None,
) -> Tensor:
    """Add one forward pass's weighted gradient, and return its weighted loss.

    The teacher is asked where its logits (b, K) are not given.
    """
    with state.precision.autocast():
        if state.teacher and teacher_logits is None:
            with torch.no_grad():
                teacher_logits = state.teacher(images, batch)  # (b, K)
        heads = _forward(state.model, images)  # (b, K) each
    loss = state.objective(heads, targets, teacher_logits) * weight
    state.scaler.scale(loss).backward()
    if teacher_logits is not None:
        decisions = teacher_logits.argmax(dim=-1)  # (b,)
        sums.teacher_correct.append((decisions == targets.argmax(dim=-1)).sum())
        with torch.no_grad():
            student_decisions = late_fusion(heads).argmax(dim=-1)  # (b,)
        sums.teacher_followed.append((decisions == student_decisions).sum())
    return loss.detach()


def _forward(model: nn.Module, images: Tensor) -> HeadLogits:
    """Run the model; a batch norm that one image gives one value uses its running statistics."""
    if len(images) > 1:
        return model(images)
    norm_statistics = batch_norm_statistics(model)
    statistics = [s.clone() for s in norm_statistics]
    try:
        return model(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
    _restore_statistics(norm_statistics, statistics)
    norms = [m for m in model.modules() if m.training and "running_mean" in m._buffers]
    for norm in norms:
        norm.eval()
    try:
        return model(images)
    finally:
        for norm in norms:
            norm.train()


def clipped_norm(parameters: list[nn.Parameter], clip_grad_norm: float | None) -> Tensor:
    """Clip the whole gradient, and return its norm from before, on the device."""
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_grad_norm is not None:
        clip_grads_with_norm_(parameters, clip_grad_norm, norm)
    return norm


def step_numbers(state: TrainState, sums: StepSums, grad_norm: Tensor) -> Tensor:
    """Return what `judge_step` needs to know of a step, as one float32 vector on the device.

    It holds the loss, the images on which the teacher was right and those on which it was followed,
    all three over all processes, the gradient norm, and the loss of each micro-batch.
    """
    zero = torch.zeros((), device=state.device)
    own = torch.stack(
        [
            torch.stack(sums.losses).sum(),
            sum(sums.teacher_correct, zero).float(),
            sum(sums.teacher_followed, zero).float(),
        ]
    )
    total = state.world.sum_(own.clone())
    return torch.cat([total, grad_norm.float().reshape(1), torch.stack(sums.losses)])


def judge_step(state: TrainState, work: StepBatches, numbers: list[float]) -> Outcome:
    """Decide from the `step_numbers` of a step whether it counts.

    Every process reads the same sums, so all decide alike.
    """
    loss, correct, followed, norm = numbers[:4]
    finite = math.isfinite(loss) and math.isfinite(norm)
    scaler = state.scaler
    overflowed = math.isfinite(loss) and not finite and scaler.is_enabled()
    searching = overflowed and scaler.get_scale() >= MIN_LOSS_SCALE
    images = work.global_batch_size
    return Outcome(
        applied=finite,
        diverged=not finite and not searching,
        loss=loss,
        grad_norm=norm,
        suspects=[i for i, own_loss in enumerate(numbers[4:]) if not math.isfinite(own_loss)],
        teacher_agreement=followed / images if state.teacher else None,
        teacher_top1=correct / images if state.teacher else None,
    )


def _restore_statistics(buffers: list[Tensor], statistics: list[Tensor]) -> None:
    for buffer, saved in zip(buffers, statistics, strict=True):
        buffer.copy_(saved)


def _part(batch: Batch, rows: slice) -> Batch:
    return batch._replace(
        images=batch.images[rows],
        labels=batch.labels[rows],
        indices=batch.indices[rows],
        repetitions=batch.repetitions[rows],
    )
