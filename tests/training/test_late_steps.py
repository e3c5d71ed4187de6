"""Compare steps that are read late, and captured steps, with plain ones, on the CPU.

In place of a CUDA graph stands the function that would be recorded, run at each step on the same
static tensors: what the graph replays, without the graph. tests/gpu replays real graphs.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toys import (
    ConvNet,
    Setup,
    ToyNet,
    ToyStep,
    assert_equal,
    numbers_of,
    prepare,
    toy_steps,
)
from torch import Tensor

from deit_transfer.engine.captured_step import WARM_UP_STEPS
from deit_transfer.engine.ema import Ema
from deit_transfer.engine.loop import StepReport
from deit_transfer.engine.losses import make_objective
from deit_transfer.engine.nonfinite import NonFiniteStep
from deit_transfer.errors import DivergedError, Interrupted


def float32_lr(step: int) -> float:
    """A rate that a float32 tensor holds exactly, as a captured step's does."""
    return torch.tensor(0.02 / (1 + step)).item()


class Capture:
    """Stands for a CUDA graph: runs what it was given at each replay, and counts."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay


def whole_steps(steps: int, *, start: int = 0, batch_size: int = 6) -> Iterator[ToyStep]:
    return toy_steps(steps=steps, start=start, batch_size=batch_size, micro_batch_size=batch_size)


def with_odd_ends(steps: int) -> Iterator[ToyStep]:
    """Every fourth batch is smaller."""
    for step in range(steps):
        size = 5 if step % 4 == 3 else 6
        yield from whole_steps(step + 1, start=step, batch_size=size)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no clipping": {"clip_grad_norm": None},
    "tight clipping": {"clip_grad_norm": 1e-3},
    "no teacher": {"teacher": None, "objective": make_objective(kind="none")},
    "teacher in the graph": {"teacher_sees_images_only": True},
    "hard distillation": {"objective": make_objective(kind="hard")},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", ["late", "captured"])
def test_same_bits_as_plain_steps(variant: str, way: str) -> None:
    values = {"lr_at": float32_lr, **VARIANTS[variant]}
    plain, fast, capture = Setup.make(ema=False), Setup.make(ema=False), Capture()
    expected = plain.train(with_odd_ends(14), **values)
    values |= {"read_late": True, "capture": capture if way == "captured" else None}
    reports = fast.train(with_odd_ends(14), **values)
    assert numbers_of(reports) == numbers_of(expected)
    assert_equal(fast.tensors(), plain.tensors())
    # three to warm up, and all but each fourth of the others
    assert (capture.captures, capture.replays) == ((1, 8) if way == "captured" else (0, 0))


@pytest.mark.parametrize("way", ["late", "captured"])
def test_same_average_to_rounding(way: str) -> None:
    plain, fast = Setup.make(), Setup.make()
    plain.train(whole_steps(9), lr_at=float32_lr)
    capture = Capture() if way == "captured" else None
    fast.train(whole_steps(9), lr_at=float32_lr, read_late=True, capture=capture)
    for name, value in fast.tensors().items():
        torch.testing.assert_close(value, plain.tensors()[name], rtol=1e-6, atol=1e-7)


def test_micro_batches_and_layer_decay_are_read_late_to_the_same_bits() -> None:
    plain, fast = Setup.make(ema=False), Setup.make(ema=False)
    for setup in (plain, fast):
        for number, group in enumerate(setup.optimizer.param_groups):
            group["lr_scale"] = 0.5**number
    capture = Capture()
    expected = plain.train(toy_steps(steps=6))
    assert numbers_of(fast.train(toy_steps(steps=6), read_late=True, capture=capture)) == (
        numbers_of(expected)
    )
    assert_equal(fast.tensors(), plain.tensors())
    assert capture.captures == 0, "a step of several micro-batches was captured"


def test_layer_decay_reaches_captured_steps() -> None:
    plain, fast, capture = Setup.make(ema=False), Setup.make(ema=False), Capture()
    for setup in (plain, fast):
        for number, group in enumerate(setup.optimizer.param_groups):
            group["lr_scale"] = 0.25**number
    plain.train(whole_steps(7), lr_at=float32_lr)
    fast.train(whole_steps(7), lr_at=float32_lr, read_late=True, capture=capture)
    assert capture.replays == 7 - WARM_UP_STEPS
    assert_equal(fast.tensors(), plain.tensors())
    assert all(isinstance(group["lr"], float) for group in fast.optimizer.param_groups)
    assert not any(group["capturable"] for group in fast.optimizer.param_groups)


def test_a_new_shape_is_captured_once_it_lasts() -> None:
    capture, setup = Capture(), Setup.make(ema=False)
    sizes = [6] * 5 + [8] * 6 + [6]
    steps = (
        work
        for step, size in enumerate(sizes)
        for work in whole_steps(step + 1, start=step, batch_size=size)
    )
    plain = Setup.make(ema=False)
    plain.train(
        (
            work
            for step, size in enumerate(sizes)
            for work in whole_steps(step + 1, start=step, batch_size=size)
        ),
        lr_at=float32_lr,
    )
    setup.train(steps, lr_at=float32_lr, read_late=True, capture=capture)
    assert (capture.captures, capture.replays) == (2, 2 + 3)
    assert_equal(setup.tensors(), plain.tensors())


def test_what_cannot_be_captured_runs_uncaptured_and_says_so() -> None:
    def refuse(_work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nat line 7")

    plain, fast, notes = Setup.make(ema=False), Setup.make(ema=False), []
    plain.train(whole_steps(6))
    fast.train(whole_steps(6), read_late=True, capture=refuse, notes=notes)
    assert_equal(fast.tensors(), plain.tensors())
    assert len(notes) == 1
    assert "not permitted when stream is capturing)" in notes[0]


def test_halved_forward_passes_are_not_captured() -> None:
    capture, setup = Capture(), Setup.make(ema=False)
    setup.train(whole_steps(6), read_late=True, capture=capture, forward_size=3)
    assert capture.captures == 0


class NanAt:
    """A transform whose images are not finite at one step, told by its call number."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.calls = -1

    def __call__(self, batch: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1
        images, targets = prepare(batch)
        return (images * torch.nan if self.calls == self.step else images), targets


@pytest.mark.parametrize("bad", [1, 8])
def test_a_step_that_is_not_finite_changes_nothing(bad: int) -> None:
    seen: list[NonFiniteStep] = []
    plain, late = Setup.make(), Setup.make()
    common: dict[str, Any] = {"nonfinite": "skip", "lr_at": float32_lr}
    plain.train(whole_steps(8), batch_transforms=NanAt(bad), **common)
    reports = late.train(
        whole_steps(8),
        batch_transforms=NanAt(bad),
        read_late=True,
        on_nonfinite=seen.append,
        **common,
    )
    assert [r.skipped for r in reports] == [step == bad for step in range(8)]
    assert [incident.step for incident in seen] == ([bad] if bad < 8 else [])
    for name, value in late.tensors().items():
        torch.testing.assert_close(value, plain.tensors()[name], rtol=1e-6, atol=1e-7)


def test_a_captured_step_that_is_not_finite_changes_nothing() -> None:
    setup, capture = Setup.make(), Capture()
    # the capture prepares its inputs once more
    transform = NanAt(6)
    before: list[dict[str, Tensor]] = []
    reports: list[StepReport] = []
    for report in setup.steps(
        whole_steps(8),
        batch_transforms=transform,
        read_late=True,
        capture=capture,
        nonfinite="skip",
        pauses_after=lambda _step: True,
    ):
        reports.append(report)
        before.append(setup.tensors())
    (bad,) = [report.step for report in reports if report.skipped]
    assert bad > WARM_UP_STEPS
    assert_equal(before[bad - 1], before[bad])
    assert not torch.equal(before[bad]["head.weight"], before[bad + 1]["head.weight"])


def test_the_error_policy_acts_before_the_next_report() -> None:
    setup = Setup.make()
    reports: list[int] = []
    with pytest.raises(DivergedError, match="step 2 is not finite"):
        reports.extend(
            report.step
            for report in setup.steps(whole_steps(6), batch_transforms=NanAt(2), read_late=True)
        )
    assert reports == [0, 1]


def test_rollback_reads_every_step_at_once() -> None:
    state, setup, restored = {}, Setup.make(), []

    def restore() -> None:
        restored.append(True)

    for report in setup.steps(
        whole_steps(5),
        batch_transforms=NanAt(2),
        read_late=True,
        nonfinite="rollback",
        restore=restore,
    ):
        state[report.step] = setup.tensors()
    assert restored == [True]
    assert_equal(state[1], state[2])
    assert not torch.equal(state[2]["head.weight"], state[3]["head.weight"])


def digest(setup: Setup) -> str:
    values = hashlib.sha256()
    for name, tensor in sorted(setup.tensors().items()):
        values.update(name.encode() + tensor.numpy().tobytes())
    return values.hexdigest()


def test_at_a_pause_the_weights_are_those_of_the_step() -> None:
    plain, late = Setup.make(ema=False), Setup.make(ema=False)
    expected = {r.step: digest(plain) for r in plain.steps(whole_steps(9))}
    pauses = {2, 5, 6}
    found = {
        r.step: digest(late)
        for r in late.steps(whole_steps(9), read_late=True, pauses_after=pauses.__contains__)
    }
    for step in [*pauses, 8]:
        assert found[step] == expected[step], step
    # without a pause the next step has been made already
    assert found[3] == expected[4]


def test_resumed_at_a_pause_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    values: dict[str, Any] = {"read_late": True, "lr_at": float32_lr}
    whole = Setup.make()
    whole.train(whole_steps(10), capture=Capture(), **values)
    first = Setup.make()
    first.train(whole_steps(6), capture=Capture(), **values)
    torch.save([first.model.state_dict(), first.optimizer.state_dict()], tmp_path / "saved")
    model, optimizer = torch.load(tmp_path / "saved")
    second = Setup.make(seed=5)
    second.model.load_state_dict(model)
    second.optimizer.load_state_dict(optimizer)
    second.ema.load_state_dict(first.ema.state_dict())
    second.train(whole_steps(10, start=6), capture=Capture(), **values)
    assert_equal(second.tensors(), whole.tensors())


def test_a_stop_while_waiting_comes_after_the_unread_step() -> None:
    def stopped() -> Iterator[ToyStep]:
        yield from whole_steps(3)
        raise Interrupted("stopped")

    reports: list[int] = []
    with pytest.raises(Interrupted):
        reports.extend(
            report.step
            for report in Setup.make().steps(
                stopped(), read_late=True, pauses_after=lambda _step: False
            )
        )
    assert reports == [0, 1, 2]


def test_reports_come_one_step_late() -> None:
    begun = []

    def watched() -> Iterator[ToyStep]:
        for work in whole_steps(4):
            begun.append(work.step)
            yield work

    steps = Setup.make().steps(watched(), read_late=True)
    assert next(steps).step == 0
    assert begun == [0, 1]


def test_times_add_up_to_the_run() -> None:
    started = time.perf_counter()
    reports = Setup.make().train(whole_steps(6), read_late=True)
    took = time.perf_counter() - started
    assert 0 < sum(report.time_s for report in reports) <= took


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"optimizer": "lamb"}, "only the fused AdamW"),
        ({"optimizer": "sgd"}, "only the fused AdamW"),
        ({"model": ConvNet()}, "batch norms"),
    ],
)
def test_what_cannot_be_read_late_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Setup.make(**values).train(whole_steps(2), read_late=True)


def test_capture_needs_late_reading() -> None:
    with pytest.raises(ValueError, match="needs read_late"):
        Setup.make().train(whole_steps(2), capture=Capture())


def test_update_where_false_leaves_the_average() -> None:
    model = ToyNet()
    average = Ema(model, decay=0.5)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update_where(model, torch.tensor(False))
    assert_equal(dict(average.state_dict()), before)
    average.update_where(model, torch.tensor(True))
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.5)
