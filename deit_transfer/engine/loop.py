"""The training loop: a generator that makes one optimizer update, reports it, and goes on.

The update itself is step.train_step. The loop prints, saves and evaluates nothing; the caller does,
between two reports. Whatever a step draws at random follows from (seed, step, micro-batch), so the
loop has no state of its own to save.
Shapes: B images of one micro-batch, K classes.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import get_args

from deit_transfer.engine.captured_step import CapturedStep
from deit_transfer.engine.distributed import copy_from_main
from deit_transfer.engine.late_step import LaunchedStep, launch_step
from deit_transfer.engine.nonfinite import NonFinitePolicy, NonFiniteStep, diverged_error
from deit_transfer.engine.out_of_memory import named_memory_errors
from deit_transfer.engine.state import StepBatches, TrainState
from deit_transfer.engine.step import Outcome, train_step
from deit_transfer.errors import StoppedError


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
    pauses_after: Callable[[int], bool] | None = None,
) -> Iterator[StepReport]:
    """Train on each step's batches and yield its report.

    Where the state reads late, the next step has begun when a report comes, and the weights may be
    those after it; `pauses_after` names the steps whose report comes before the next step begins.
    Under `rollback` no step is read late: what came after the fault would be lost as well.

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
        pauses_after: Asked once for each step that is read late, after it has begun: will the
            caller look at the weights when it is reported?

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
    reporter = _Reporter(
        state=state,
        policy=nonfinite,
        budget=nonfinite_budget,
        seen=nonfinite_seen,
        on_nonfinite=on_nonfinite,
        restore=restore,
    )
    if state.read_late and nonfinite != "rollback":
        yield from _read_late(state, batches, reporter, pauses_after)
        return
    for begun in _timed(state, batches):
        with named_memory_errors(f"step {begun.work.step}"):
            outcome = train_step(state, begun.work, begun.lr)
        yield reporter.report(begun, outcome)


@dataclass(frozen=True)
class _Begun:
    """A step's batches and rate, when it began, and how long its batches were waited for."""

    work: StepBatches
    lr: float
    started: float
    data_wait_s: float


def _read_late(
    state: TrainState,
    batches: Iterable[StepBatches],
    reporter: "_Reporter",
    pauses_after: Callable[[int], bool] | None,
) -> Iterator[StepReport]:
    """Yield each step's report once the next one has begun, or at once where the caller pauses."""
    captured = CapturedStep(state) if state.capture is not None else None
    launch = captured.launch if captured is not None else partial(launch_step, state)
    unread: tuple[_Begun, LaunchedStep] | None = None
    try:
        for begun in _timed(state, batches):
            with named_memory_errors(f"step {begun.work.step}"):
                launched = launch(begun.work, begun.lr)
            if unread is not None:
                yield reporter.report(unread[0], unread[1].read())
            unread = (begun, launched)
            if pauses_after is not None and pauses_after(begun.work.step):
                unread = None
                yield reporter.report(begun, launched.read())
    except StoppedError:
        if unread is None:
            raise
        # while a batch was awaited: the caller counts and saves the step before
        yield reporter.report(unread[0], unread[1].read())
        raise
    if unread is not None:
        yield reporter.report(unread[0], unread[1].read())


@dataclass(kw_only=True)
class _Reporter:
    """Turns outcomes into reports, and acts on those that are not finite."""

    state: TrainState
    policy: NonFinitePolicy
    budget: int
    seen: int
    on_nonfinite: Callable[[NonFiniteStep], None] | None
    restore: Callable[[], None] | None
    reported_at: float = 0.0

    def report(self, begun: _Begun, outcome: Outcome) -> StepReport:
        work, rolled_back = begun.work, False
        if outcome.diverged:
            self.seen += 1
            incident = _incident(self.state, work, outcome, begun.lr, self.policy, self.seen)
            if self.on_nonfinite:
                self.on_nonfinite(incident)
            rolled_back = _act_by_policy(incident, budget=self.budget, restore=self.restore)
        # A step that is read late has begun before the one before it was reported.
        started, self.reported_at = max(begun.started, self.reported_at), time.perf_counter()
        return StepReport(
            step=work.step,
            epoch=work.epoch,
            loss=outcome.loss,
            lr=begun.lr,
            images=work.global_batch_size,
            grad_norm=outcome.grad_norm,
            data_wait_s=begun.data_wait_s,
            time_s=self.reported_at - started,
            skipped=not outcome.applied,
            rolled_back=rolled_back,
            nonfinite_seen=self.seen,
            forward_size=self.state.forward_size,
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


def _timed(state: TrainState, batches: Iterable[StepBatches]) -> Iterator[_Begun]:
    """Yield each step's batches, its rate, and when it began."""
    iterator = iter(batches)
    while True:
        started = time.perf_counter()
        try:
            work = next(iterator)
        except StopIteration:
            return
        yield _Begun(work, state.lr_at(work.step), started, time.perf_counter() - started)
