"""Own the training loop: a generator that makes one optimizer update, reports it, and goes on.

The update itself is step.train_step. The loop prints, saves and evaluates nothing; the caller does,
between two reports. Whatever a step draws at random follows from (seed, step, micro-batch), so the
loop has no state of its own to save.
Shapes: B images of one micro-batch, K classes.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from deit_transfer.engine.distributed import World, copy_from_main
from deit_transfer.engine.ema import Ema
from deit_transfer.engine.losses import Objective
from deit_transfer.engine.nonfinite import NonFinitePolicy, NonFiniteStep, diverged_error
from deit_transfer.engine.optimizer import check_coverage
from deit_transfer.engine.out_of_memory import is_lost_worker, lost_worker, named_memory_errors
from deit_transfer.engine.precision import Precision
from deit_transfer.engine.step import (
    BatchTransform,
    Outcome,
    StepBatches,
    TeacherFunction,
    TrainState,
    train_step,
)


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
    prepare: BatchTransform,
    objective: Objective,
    optimizer: Optimizer,
    lr_at: Callable[[int], float],
    precision: Precision,
    device: torch.device,
    seed: int,
    augment_seed: int | None = None,
    scaler: GradScaler | None = None,
    ema: Ema | None = None,
    teacher: TeacherFunction | None = None,
    clip_grad_norm: float | None = None,
    nonfinite: NonFinitePolicy = "error",
    nonfinite_budget: int = 10,
    nonfinite_seen: int = 0,
    on_nonfinite: Callable[[NonFiniteStep], None] | None = None,
    restore: Callable[[], None] | None = None,
    forward_size: int | None = None,
    world: World | None = None,
) -> Iterator[StepReport]:
    """Train on each step's batches and yield its report.

    Args:
        model: Answers images (B, 3, H, W) with Heads. It is put into training mode at each step.
        batches: This process's share of every step, from the step to resume at on.
        prepare: Turns a batch on the device into normalized, mixed images (B, 3, H, W) and targets
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
    state = TrainState(
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
    copy_from_main(model, state.world)
    if ema:
        copy_from_main(ema.model, state.world)
    for work, started, data_wait_s in _timed(batches):
        lr = lr_at(work.step)
        with named_memory_errors(f"step {work.step}"):
            outcome = train_step(state, work, lr)
        rolled_back = False
        if outcome.diverged:
            nonfinite_seen += 1
            incident = _incident(state, work, outcome, lr, nonfinite, nonfinite_seen)
            if on_nonfinite:
                on_nonfinite(incident)
            rolled_back = _act_by_policy(incident, budget=nonfinite_budget, restore=restore)
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
            forward_size=state.forward_size,
            teacher_agreement=outcome.teacher_agreement,
            teacher_top1=outcome.teacher_top1,
        )


def _incident(
    state: TrainState,
    work: StepBatches,
    outcome: Outcome,
    lr: float,
    policy: NonFinitePolicy,
    seen: int,
) -> NonFiniteStep:
    own = [batch.indices.tolist() for batch in work.micro_batches]
    shares = state.world.gather((own, [own[i] for i in outcome.suspects]))
    return NonFiniteStep(
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


def _act_by_policy(
    incident: NonFiniteStep, *, budget: int, restore: Callable[[], None] | None
) -> bool:
    """Act on a non-finite step by its policy; tell whether it was rolled back."""
    if incident.policy == "error" or incident.seen > budget:
        raise diverged_error(incident, budget=budget)
    if incident.policy != "rollback" or restore is None:
        return False
    restore()
    return True


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
