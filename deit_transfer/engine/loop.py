"""Own the training loop: a generator that makes one optimizer update, reports it, and goes on.

It prints, saves and evaluates nothing; the caller does, between two reports. Whatever a step draws
at random follows from (seed, step, micro-batch), so the loop has no state of its own to save.
Shapes: B images of one micro-batch, b of one forward pass (b = B unless memory ran out), K classes.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, get_args

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from deit_transfer.batch import Batch, Heads
from deit_transfer.engine.distributed import (
    World,
    average_batch_norm,
    batch_norm_statistics,
    copy_from_main,
    sum_gradients,
)
from deit_transfer.engine.divergence import NonFinite, NonFinitePolicy, diverged_error
from deit_transfer.engine.ema import Ema
from deit_transfer.engine.memory import (
    is_lost_worker,
    is_out_of_memory,
    lost_worker,
    named_memory_errors,
)
from deit_transfer.engine.objectives import Objective, late_fusion
from deit_transfer.engine.param_groups import check_coverage
from deit_transfer.engine.precision import Precision
from deit_transfer.engine.schedule import apply_lr
from deit_transfer.engine.seed import seed_preparation, seed_step
from deit_transfer.errors import ResourceError

Prepare = Callable[[Batch], tuple[Tensor, Tensor]]
TeacherAnswer = Callable[[Tensor, Batch], Tensor]

# An fp16 scaler starts at 65536 and halves at each overflow; below 1 it is no longer searching for
# a scale, the gradients themselves are too large.
MIN_LOSS_SCALE = 1.0


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


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Tell what one step did. Fractions are over the images of the global batch.

    Args:
        step: From 0.
        epoch: From 0.
        loss: Mean objective per image of the global batch.
        lr: Peak-scaled rate of this step, before layer decay.
        images: Images in the global batch.
        grad_norm: Of the whole gradient, before clipping.
        data_wait_s: Seconds this process waited for the batch.
        time_s: Seconds the whole step took, the waiting included.
        skipped: No update was made: a non-finite step under skip or rollback, or an fp16 overflow.
        rolled_back: The caller's `restore` was run.
        nonfinite_seen: Non-finite steps of the run so far; hand it to train_steps when resuming.
        forward_size: Images per forward pass once memory has run out, None while micro-batches fit;
            hand it to train_steps when resuming.
        teacher_agreement: Fraction on which the student's joint decision is the teacher's.
        teacher_top1: Fraction on which the teacher's decision is the (largest) target.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images: int
    grad_norm: float
    data_wait_s: float
    time_s: float
    skipped: bool
    rolled_back: bool
    nonfinite_seen: int
    forward_size: int | None
    teacher_agreement: float | None
    teacher_top1: float | None


def train_steps(
    *,
    model: nn.Module,
    batches: Iterable[StepBatches],
    prepare: Prepare,
    objective: Objective,
    optimizer: Optimizer,
    lr_at: Callable[[int], float],
    precision: Precision,
    device: torch.device,
    seed: int,
    augment_seed: int | None = None,
    scaler: GradScaler | None = None,
    ema: Ema | None = None,
    teacher: TeacherAnswer | None = None,
    clip_grad_norm: float | None = None,
    nonfinite: NonFinitePolicy = "error",
    nonfinite_budget: int = 10,
    nonfinite_seen: int = 0,
    on_nonfinite: Callable[[NonFinite], None] | None = None,
    restore: Callable[[], None] | None = None,
    forward_size: int | None = None,
    world: World | None = None,
) -> Iterator[StepReport]:
    """Train on each step's batches and yield its report.

    Args:
        model: Answers images (B, 3, H, W) with Heads. It is put into training mode at each step.
        batches: This process's share of every step, from the step to resume at on.
        prepare: Turns a batch on the device into normalised, mixed images (B, 3, H, W) and targets
            (B, K). It may draw from the global generators, and from nothing else.
        objective: From make_objective.
        optimizer: Over every trainable parameter of the model.
        lr_at: The learning rate of a step.
        precision: Of the forward passes.
        device: Where model and optimizer are.
        seed: Of the run.
        augment_seed: Of mixing and erasing; None takes the run's.
        scaler: From precision.make_scaler(); given by a caller that saves and restores it.
        ema: Updated after each update of the model.
        teacher: Answers (images, batch) with logits (B, K); asked about what the student sees.
        clip_grad_norm: Largest norm of the whole gradient; None leaves it alone.
        nonfinite: What a non-finite loss or gradient does. `error` raises; `skip` makes no update;
            `rollback` makes none and calls `restore`. The next step then takes the next batch:
            the same one would give the same result.
        nonfinite_budget: Non-finite steps that skip and rollback bear, over the whole run.
        nonfinite_seen: How many there were before this start.
        on_nonfinite: Told of each, before the policy acts, to write it down.
        restore: Puts model, optimizer, scaler and ema back to the newest saved state.
        forward_size: Images per forward pass; None for whole micro-batches. When memory runs out
            it halves and the step is done again; batch, gradient and learning rate stay. Batch
            norms (no DeiT has any) see the smaller passes.
        world: The processes of this run; None for one.

    Raises:
        DivergedError: A non-finite step under `error`, or one too many.
        ResourceError: Memory ran out at one image, or a data worker was killed for memory.
    """
    if nonfinite not in get_args(NonFinitePolicy):
        raise ValueError(f"nonfinite {nonfinite!r} is not one of {get_args(NonFinitePolicy)}")
    if nonfinite == "rollback" and restore is None:
        raise ValueError("nonfinite='rollback' needs restore: how to get back to a saved state")
    check_coverage(model, optimizer)
    learner = _Learner(
        model=model,
        prepare=prepare,
        objective=objective,
        optimizer=optimizer,
        precision=precision,
        scaler=scaler or precision.make_scaler(),
        ema=ema,
        device=device,
        seed=seed,
        augment_seed=seed if augment_seed is None else augment_seed,
        teacher=teacher,
        clip_grad_norm=clip_grad_norm,
        forward_size=forward_size,
        world=world or World(),
    )
    copy_from_main(model, learner.world)
    if ema:
        copy_from_main(ema.model, learner.world)
    for work, started, data_wait_s in _timed(batches):
        lr = lr_at(work.step)
        with named_memory_errors(f"step {work.step}"):
            outcome = train_step(learner, work, lr)
        rolled_back = False
        if outcome.diverged:
            nonfinite_seen += 1
            incident = _incident(learner, work, outcome, lr, nonfinite, nonfinite_seen)
            if on_nonfinite:
                on_nonfinite(incident)
            if nonfinite == "error" or nonfinite_seen > nonfinite_budget:
                raise diverged_error(incident, budget=nonfinite_budget)
            if nonfinite == "rollback" and restore:
                restore()
                rolled_back = True
        yield StepReport(
            step=work.step,
            epoch=work.epoch,
            loss=outcome.loss,
            lr=lr,
            images=work.global_batch_size,
            grad_norm=outcome.grad_norm,
            data_wait_s=data_wait_s,
            time_s=time.perf_counter() - started,
            skipped=not outcome.applied,
            rolled_back=rolled_back,
            nonfinite_seen=nonfinite_seen,
            forward_size=learner.forward_size,
            teacher_agreement=outcome.teacher_agreement,
            teacher_top1=outcome.teacher_top1,
        )


@dataclass(kw_only=True)
class _Learner:
    """What stays the same from step to step; only forward_size may shrink."""

    model: nn.Module
    prepare: Prepare
    objective: Objective
    optimizer: Optimizer
    precision: Precision
    scaler: GradScaler
    ema: Ema | None
    device: torch.device
    seed: int
    augment_seed: int
    teacher: TeacherAnswer | None
    clip_grad_norm: float | None
    forward_size: int | None
    world: World

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def largest_forward(self, work: StepBatches) -> int:
        largest = max(len(batch.labels) for batch in work.micro_batches)
        return min(largest, self.forward_size or largest)


@dataclass
class _Sums:
    """What a step's forward passes add up to, on the device; each loss weighted by its share."""

    losses: list[Tensor] = field(default_factory=list)  # one per micro-batch
    teacher_right: list[Tensor] = field(default_factory=list)
    teacher_followed: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class _Outcome:
    applied: bool
    diverged: bool
    loss: float
    grad_norm: float
    suspects: list[int]  # of this process: positions of micro-batches with a non-finite loss
    teacher_agreement: float | None
    teacher_top1: float | None


def train_step(learner: _Learner, work: StepBatches, lr: float) -> _Outcome:
    """Make one update from the gradient of the whole global batch, unless it is not finite."""
    apply_lr(learner.optimizer, lr)
    learner.model.train()
    statistics = [s.clone() for s in batch_norm_statistics(learner.model)]
    sums = _gradients_within_memory(learner, work, statistics)
    sum_gradients(learner.trainable(), learner.world)
    learner.scaler.unscale_(learner.optimizer)
    grad_norm = _clipped_norm(learner.trainable(), learner.clip_grad_norm)
    outcome = _judge(learner, work, sums, grad_norm)
    if outcome.applied:
        learner.scaler.step(learner.optimizer)
        share = sum(len(batch.labels) for batch in work.micro_batches) / work.global_batch_size
        average_batch_norm(learner.model, learner.world, weight=share)
        if learner.ema:
            learner.ema.update(learner.model)
    else:
        _restore_statistics(learner.model, statistics)
    learner.scaler.update()
    return outcome


def _gradients_within_memory(
    learner: _Learner, work: StepBatches, statistics: list[Tensor]
) -> _Sums:
    """Accumulate the gradients, with smaller and smaller forward passes until they fit."""
    while True:
        learner.optimizer.zero_grad(set_to_none=True)
        try:
            return _accumulate(learner, work)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = str(error)
        # Outside of `except`: the traceback would keep the failed pass's tensors alive.
        largest = learner.largest_forward(work)
        if largest == 1:
            raise ResourceError(
                f"out of memory at one image per forward pass (step {work.step}): {message}",
                hint="choose a smaller model or resolution, or free the device's memory",
            )
        learner.forward_size = largest // 2
        _restore_statistics(learner.model, statistics)
        if learner.device.type == "cuda":
            torch.cuda.empty_cache()


def _accumulate(learner: _Learner, work: StepBatches) -> _Sums:
    """Add up the gradients of all micro-batches, each image weighted 1 / global batch."""
    if not work.micro_batches:
        raise ValueError(f"process {learner.world.rank} got no micro-batch at step {work.step}")
    sums = _Sums()
    for number, batch in zip(work.numbers, work.micro_batches, strict=True):
        seed_preparation(learner.augment_seed, work.step, number)
        on_device = batch._replace(
            images=batch.images.to(learner.device, non_blocking=True),
            labels=batch.labels.to(learner.device, non_blocking=True),
        )
        images, targets = learner.prepare(on_device)  # (B, 3, H, W), (B, K)
        seed_step(learner.seed, work.step, number)
        size = learner.forward_size or len(targets)
        losses = [
            _forward_backward(
                learner,
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


def _forward_backward(
    learner: _Learner,
    images: Tensor,
    targets: Tensor,
    batch: Batch,
    sums: _Sums,
    *,
    weight: float,
) -> Tensor:
    """Add one forward pass's weighted gradient, and return its weighted loss."""
    teacher_logits = None
    with learner.precision.autocast():
        if learner.teacher:
            with torch.no_grad():
                teacher_logits = learner.teacher(images, batch)  # (b, K)
        heads: Heads = learner.model(images)  # (b, K) each
    loss = learner.objective(heads, targets, teacher_logits) * weight
    learner.scaler.scale(loss).backward()
    if teacher_logits is not None:
        decisions = teacher_logits.argmax(dim=-1)  # (b,)
        sums.teacher_right.append((decisions == targets.argmax(dim=-1)).sum())
        with torch.no_grad():
            student_decisions = late_fusion(heads).argmax(dim=-1)  # (b,)
        sums.teacher_followed.append((decisions == student_decisions).sum())
    return loss.detach()


def _clipped_norm(parameters: list[nn.Parameter], clip_grad_norm: float | None) -> Tensor:
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_grad_norm is not None:
        clip_grads_with_norm_(parameters, clip_grad_norm, norm)
    return norm


def _judge(learner: _Learner, work: StepBatches, sums: _Sums, grad_norm: Tensor) -> _Outcome:
    """Read the step's numbers, one transfer for all, and decide whether it counts.

    Every process reads the same sums, so all decide alike.
    """
    zero = torch.zeros((), device=learner.device)
    own = torch.stack(
        [
            torch.stack(sums.losses).sum(),
            sum(sums.teacher_right, zero).float(),
            sum(sums.teacher_followed, zero).float(),
        ]
    )
    total = learner.world.sum_(own.clone())
    read = torch.cat([total, grad_norm.float().reshape(1), torch.stack(sums.losses)]).tolist()
    loss, right, followed, norm = read[:4]
    finite = math.isfinite(loss) and math.isfinite(norm)
    scaler = learner.scaler
    overflowed = math.isfinite(loss) and not finite and scaler.is_enabled()
    searching = overflowed and scaler.get_scale() >= MIN_LOSS_SCALE
    images = work.global_batch_size
    return _Outcome(
        applied=finite,
        diverged=not finite and not searching,
        loss=loss,
        grad_norm=norm,
        suspects=[i for i, own_loss in enumerate(read[4:]) if not math.isfinite(own_loss)],
        teacher_agreement=followed / images if learner.teacher else None,
        teacher_top1=right / images if learner.teacher else None,
    )


def _incident(
    learner: _Learner,
    work: StepBatches,
    outcome: _Outcome,
    lr: float,
    policy: NonFinitePolicy,
    seen: int,
) -> NonFinite:
    own = [batch.indices.tolist() for batch in work.micro_batches]
    shares = learner.world.gather((own, [own[i] for i in outcome.suspects]))
    return NonFinite(
        step=work.step,
        epoch=work.epoch,
        lr=lr,
        loss=outcome.loss,
        grad_norm=outcome.grad_norm,
        policy=policy,
        seen=seen,
        indices=sorted(i for everything, _ in shares for part in everything for i in part),
        suspects=sorted(i for _, suspects in shares for part in suspects for i in part),
    )


def _restore_statistics(model: nn.Module, statistics: list[Tensor]) -> None:
    for buffer, saved in zip(batch_norm_statistics(model), statistics, strict=True):
        buffer.copy_(saved)


def _part(batch: Batch, rows: slice) -> Batch:
    return batch._replace(
        images=batch.images[rows],
        labels=batch.labels[rows],
        indices=batch.indices[rows],
        repetitions=batch.repetitions[rows],
    )


def _timed(batches: Iterable[StepBatches]) -> Iterator[tuple[StepBatches, float, float]]:
    """Yield each step's batches, when their step began and how long they were waited for."""
    iterator = iter(batches)
    while True:
        started = time.perf_counter()
        try:
            work = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if is_lost_worker(error):
                raise lost_worker(error) from error
            raise
        yield work, started, time.perf_counter() - started
