"""The training loop: a generator that makes one optimizer update, reports it, and goes on.

The update itself is step.train_step. The loop prints, saves and evaluates nothing; the caller does,
between two reports. Whatever a step draws at random follows from (seed, step, micro-batch), so the
loop has no state of its own to save.
Shapes: B images of one micro-batch, K classes.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

from deit_transfer.engine.distributed import copy_from_main
from deit_transfer.engine.nonfinite import NonFinitePolicy, NonFiniteStep, diverged_error
from deit_transfer.engine.out_of_memory import named_memory_errors
from deit_transfer.engine.state import StepBatches, TrainState
from deit_transfer.engine.step import Outcome, train_step


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did. Fractions are over the images of the global batch.

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
    state: TrainState,
    batches: Iterable[StepBatches],
    *,
    nonfinite: NonFinitePolicy = "error",
    nonfinite_budget: int = 10,
    nonfinite_seen: int = 0,
    on_nonfinite: Callable[[NonFiniteStep], None] | None = None,
    restore: Callable[[], None] | None = None,
) -> Iterator[StepReport]:
    """Train on each step's batches and yield its report.

    Args:
        state: The model and what updates it.
        batches: This process's share of every step, from the step to resume at on.
        nonfinite: What a non-finite loss or gradient does. `error` raises; `skip` makes no update;
            `rollback` makes none and calls `restore`. The next step then takes the next batch:
            the same one would give the same result.
        nonfinite_budget: Non-finite steps that skip and rollback allow, over the whole run.
        nonfinite_seen: How many there were before this start.
        on_nonfinite: Called with each, before the policy acts, to write it down.
        restore: Puts model, optimizer, scaler and EMA back to the newest checkpoint.

    Raises:
        DivergedError: A non-finite step under `error`, or one too many.
        ResourceError: Memory ran out at one image per forward pass.
    """
    if nonfinite not in get_args(NonFinitePolicy):
        raise ValueError(f"nonfinite {nonfinite!r} is not one of {get_args(NonFinitePolicy)}")
    if nonfinite == "rollback" and restore is None:
        raise ValueError("nonfinite='rollback' needs restore: how to get back to a checkpoint")
    copy_from_main(state.model, state.world)
    if state.ema:
        copy_from_main(state.ema.model, state.world)
    for work, started, data_wait_s in _timed(batches):
        lr = state.lr_at(work.step)
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
    """Act on a non-finite step by its policy; return whether it was rolled back."""
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
        yield work, started, time.perf_counter() - started
