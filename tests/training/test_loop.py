"""Train tiny networks and compare with plainer writings of the same step."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from engine_toys import (
    CPU,
    IMAGES,
    ConvNet,
    K,
    Setup,
    ToyNet,
    ToyStep,
    assert_equal,
    lr_at,
    numbers_of,
    pixels,
    prepare_plainly,
    toy_steps,
    toy_teacher,
)
from torch import Tensor, nn

from deit_transfer.batch import Batch, HeadLogits
from deit_transfer.engine.losses import late_fusion, make_objective
from deit_transfer.engine.nonfinite import NonFiniteStep
from deit_transfer.engine.out_of_memory import is_out_of_memory
from deit_transfer.engine.precision import resolve_precision
from deit_transfer.errors import DivergedError, ResourceError


def whole_batch(step: int, *, batch_size: int = 7) -> Batch:
    (work,) = toy_steps(
        start=step, steps=step + 1, batch_size=batch_size, micro_batch_size=batch_size
    )
    return work.micro_batches[0]


def plain(**values: object) -> dict[str, object]:
    """A run without randomness, so that micro-batches and whole batches agree."""
    return {"batch_transforms": prepare_plainly, "clip_grad_norm": None} | values


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 7])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_accumulation_equals_a_plain_loop_over_whole_batches(
    micro_batch_size: int, clip: float | None
) -> None:
    torch.manual_seed(0)
    model = ToyNet(dropout=0)
    setup = Setup.make(model=model, ema=False)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    batches = toy_steps(steps=4, micro_batch_size=micro_batch_size)
    reports = setup.train(batches, **plain(clip_grad_norm=clip))

    reference = ToyNet(dropout=0)
    reference.load_state_dict(initial)
    decayed = [p for p in reference.parameters() if p.ndim > 1]
    spared = [p for p in reference.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0}]
    )
    for step, report in enumerate(reports):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step)
        images, targets = prepare_plainly(whole_batch(step))
        class_logits, distill_logits = reference(images)
        answers = toy_teacher(images, whole_batch(step))
        divergence = answers.div(3).softmax(1) * (
            answers.div(3).log_softmax(1) - distill_logits.div(3).log_softmax(1)
        )
        loss = 0.7 * nn.functional.cross_entropy(class_logits, targets)
        loss = loss + 0.3 * 9 * divergence.sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(reference.parameters(), clip or math.inf)
        optimizer.step()
        assert report.loss == pytest.approx(loss.item(), rel=1e-5)
        assert report.grad_norm == pytest.approx(norm.item(), rel=1e-4)
        decisions = late_fusion(HeadLogits(class_logits, distill_logits)).argmax(1)
        followed = (answers.argmax(1) == decisions).sum().item()
        right = (answers.argmax(1) == whole_batch(step).labels).sum().item()
        assert report.teacher_agreement == pytest.approx(followed / 7)
        assert report.teacher_top1 == pytest.approx(right / 7)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_reports_tell_step_epoch_and_time() -> None:
    def slow() -> Iterator[ToyStep]:
        for work in toy_steps(start=2, steps=6):
            time.sleep(0.02)
            yield work

    reports = Setup.make().train(slow())
    assert [(r.step, r.epoch) for r in reports] == [(2, 0), (3, 1), (4, 1), (5, 1)]
    for report in reports:
        assert report.images == 7
        assert report.lr == lr_at(report.step)
        assert 0.02 <= report.data_wait_s <= report.time_s
        assert (report.skipped, report.rolled_back, report.nonfinite_seen) == (False, False, 0)
        assert report.forward_size is None


def test_same_seed_same_bits_and_another_seed_others() -> None:
    first, second, third = Setup.make(), Setup.make(), Setup.make()
    reports = first.train(toy_steps(steps=4))
    torch.rand(17)  # what others draw between two steps must not matter
    assert numbers_of(second.train(toy_steps(steps=4))) == numbers_of(reports)
    assert_equal(first.tensors(), second.tensors())
    other = third.train(toy_steps(steps=4), seed=12)
    assert numbers_of(other) != numbers_of(reports)


def test_every_micro_batch_of_every_step_draws_anew() -> None:
    drawn = []

    def prepare(batch: Batch) -> tuple[Tensor, Tensor]:
        drawn.append(torch.rand(()).item())
        return prepare_plainly(batch)

    Setup.make().train(toy_steps(steps=3), batch_transforms=prepare)
    assert len(set(drawn)) == len(drawn) == 3 * 4


def test_what_the_caller_does_between_steps_does_not_matter() -> None:
    undisturbed, disturbed = Setup.make(), Setup.make()
    undisturbed.train(toy_steps(steps=4))
    for _ in disturbed.steps(toy_steps(steps=4)):
        disturbed.model.eval()
        disturbed.optimizer.zero_grad()
        torch.manual_seed(3)
    assert_equal(undisturbed.tensors(), disturbed.tensors())


def test_frozen_parameters_and_the_teacher_stay() -> None:
    model = ToyNet()
    model.body.requires_grad_(False)
    network = ToyNet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    taught = {name: value.clone() for name, value in network.state_dict().items()}
    setup = Setup.make(model=model)
    setup.train(
        toy_steps(steps=3),
        teacher=lambda images, batch: network.head(network.body[0](images.flatten(1))),
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("body"), name
        if name.startswith("body"):
            assert torch.equal(setup.ema.state_dict()[name], before[name])
    assert_equal(dict(network.state_dict()), taught)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_learns_eight_images_by_heart() -> None:
    torch.manual_seed(0)
    setup = Setup.make(model=ToyNet(distilled=False, dropout=0), ema=False)

    def repeat() -> Iterator[ToyStep]:
        (first,) = toy_steps(steps=1, batch_size=8, micro_batch_size=3)
        for step in range(250):
            yield replace(first, step=step)

    objective = make_objective(kind="none")
    reports = setup.train(
        repeat(), **plain(objective=objective, teacher=None, lr_at=lambda step: 0.02)
    )
    assert reports[0].loss > 1
    assert reports[-1].loss < 0.01
    assert reports[-1].teacher_agreement is None
    assert reports[-1].teacher_top1 is None


def test_golden_losses() -> None:
    # Weights and data from a ramp, no randomness: a change of these numbers changes training.
    model = ToyNet(dropout=0)
    with torch.no_grad():
        for parameter in model.parameters():
            ramp = torch.linspace(-0.5, 0.5, parameter.numel())
            parameter.copy_(ramp.sin().view_as(parameter))
    reports = Setup.make(model=model).train(toy_steps(steps=4), **plain())
    golden = [1.43627, 1.33500, 1.09846, 0.84969]
    assert [report.loss for report in reports] == pytest.approx(golden, abs=1e-4)


def test_bf16_computes_in_bf16_and_trains_near_fp32() -> None:
    seen = []

    def teacher(images: Tensor, batch: Batch) -> Tensor:
        seen.append((images @ images.transpose(-1, -2)).dtype)
        return toy_teacher(images, batch)

    fp32 = Setup.make().train(toy_steps(steps=3))
    setup = Setup.make()
    reports = setup.train(
        toy_steps(steps=3), precision=resolve_precision("bf16", CPU), teacher=teacher
    )
    assert set(seen) == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in setup.model.parameters())
    for ours, theirs in zip(reports, fp32, strict=True):
        assert ours.loss != theirs.loss
        assert ours.loss == pytest.approx(theirs.loss, rel=0.05)


# Out of memory


class Hungry(ToyNet):
    """Runs out of memory above so many images, in the backward pass: gradients are half done."""

    def __init__(self, limit: int) -> None:
        super().__init__(dropout=0)
        self.limit, self.failures = limit, 0

    def forward(self, images: Tensor) -> HeadLogits:
        heads = super().forward(images)
        if len(images) > self.limit:
            self.failures += 1
            heads.distill_logits.register_hook(self.fail)
        return heads

    def fail(self, gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_memory_halves_the_forward_pass_and_keeps_the_gradient() -> None:
    torch.manual_seed(4)
    hungry, fed = Hungry(limit=2), ToyNet(dropout=0)
    fed.load_state_dict(hungry.state_dict())
    batches = {"batch_size": 23, "micro_batch_size": 9}
    reports = Setup.make(model=hungry).train(toy_steps(steps=3, **batches), **plain())
    expected = Setup.make(model=fed).train(toy_steps(steps=3, **batches), **plain())
    assert [r.forward_size for r in reports] == [2, 2, 2]
    assert hungry.failures == 2  # 9 -> 4 -> 2, in the first step alone
    for ours, theirs in zip(reports, expected, strict=True):
        assert (ours.lr, ours.images) == (theirs.lr, theirs.images)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    for name, value in fed.state_dict().items():
        torch.testing.assert_close(hungry.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_the_retry_draws_the_same_randomness() -> None:
    # The same mixed images in smaller passes: as if the size had been small from the start.
    model, small = Hungry(limit=2), Hungry(limit=9)
    small.load_state_dict(model.state_dict())
    batches = {"batch_size": 23, "micro_batch_size": 9}
    first, second = Setup.make(model=model), Setup.make(model=small)
    retried = first.train(toy_steps(steps=3, **batches))
    smaller = second.train(toy_steps(steps=3, **batches), forward_size=2)
    assert small.failures == 0
    assert numbers_of(retried) == numbers_of(smaller)
    assert_equal(first.tensors(), second.tensors())


def test_out_of_memory_at_one_image_is_an_error() -> None:
    with pytest.raises(ResourceError, match="one image per forward pass") as caught:
        Setup.make(model=Hungry(limit=0)).train(toy_steps(steps=1))
    assert caught.value.exit_code == 6


def test_out_of_memory_in_the_update_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup.make()

    def step() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(setup.optimizer, "step", step)
    with pytest.raises(ResourceError, match="out of memory at step 0"):
        setup.train(toy_steps(steps=1))


def test_memory_errors_are_told_from_others() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: 4"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("CUDA out of memory"))
    setup = Setup.make()
    with pytest.raises(RuntimeError, match="shape mismatch"):
        setup.train(toy_steps(steps=1), batch_transforms=_raise_shape_mismatch)


def _raise_shape_mismatch(batch: Batch) -> tuple[Tensor, Tensor]:
    raise RuntimeError("shape mismatch")


# Non-finite steps

BAD_STEP, BAD_MICRO_BATCH = 2, 1


def poisoned(*, steps: int, bad_steps: tuple[int, ...] = (BAD_STEP,)) -> Iterator[ToyStep]:
    """Mark one micro-batch of the bad steps by its epoch; prepare_poisoned spoils it."""
    for work in toy_steps(steps=steps):
        if work.step in bad_steps:
            work.micro_batches[BAD_MICRO_BATCH] = work.micro_batches[BAD_MICRO_BATCH]._replace(
                epoch=-1
            )
        yield work


def prepare_poisoned(batch: Batch) -> tuple[Tensor, Tensor]:
    images, targets = prepare_plainly(batch)
    return (images * math.nan if batch.epoch == -1 else images), targets


def test_error_raises_before_the_update_and_tells_where() -> None:
    setup, clean = Setup.make(), Setup.make()
    clean.train(toy_steps(steps=BAD_STEP), **plain())
    incidents: list[NonFiniteStep] = []
    steps = setup.steps(
        poisoned(steps=5), **plain(batch_transforms=prepare_poisoned, on_nonfinite=incidents.append)
    )
    with pytest.raises(DivergedError, match="step 2 is not finite") as caught:
        list(steps)
    assert_equal(setup.tensors(), clean.tensors())
    (incident,) = incidents
    (work,) = toy_steps(start=BAD_STEP, steps=BAD_STEP + 1)
    suspects = sorted(work.micro_batches[BAD_MICRO_BATCH].indices.tolist())
    everything = [i for batch in work.micro_batches for i in batch.indices.tolist()]
    assert incident.suspects == suspects
    assert incident.indices == sorted(everything)
    assert (incident.step, incident.lr, incident.policy) == (2, lr_at(2), "error")
    assert math.isnan(incident.loss)
    assert math.isnan(incident.grad_norm)
    assert f"images {suspects[0]}, {suspects[1]}" in caught.value.message
    assert caught.value.exit_code == 5


def test_skip_leaves_out_the_update_and_nothing_else() -> None:
    setup, reference = Setup.make(), Setup.make()
    reports = setup.train(
        poisoned(steps=5), **plain(batch_transforms=prepare_poisoned, nonfinite="skip")
    )
    batches = (work for work in toy_steps(steps=5) if work.step != BAD_STEP)
    reference.train(batches, **plain())
    assert_equal(setup.tensors(), reference.tensors())
    assert [r.skipped for r in reports] == [False, False, True, False, False]
    assert [r.nonfinite_seen for r in reports] == [0, 0, 1, 1, 1]


def test_the_budget_is_spent_over_the_whole_run() -> None:
    values = plain(batch_transforms=prepare_poisoned, nonfinite="skip", nonfinite_budget=2)
    steps = Setup.make().steps(poisoned(steps=5, bad_steps=(1, 2, 4)), **values)
    assert [next(steps).skipped for _ in range(4)] == [False, True, True, False]
    with pytest.raises(DivergedError, match="budget of 2"):
        next(steps)
    with pytest.raises(DivergedError, match="budget of 2"):
        Setup.make().train(poisoned(steps=3, bad_steps=(1,)), **values, nonfinite_seen=2)


def test_rollback_restores_and_goes_on_with_the_next_batch() -> None:
    setup, reference = Setup.make(), Setup.make()
    saved: dict[str, object] = {}

    def save() -> None:
        saved["model"] = {n: v.clone() for n, v in setup.model.state_dict().items()}
        saved["ema"] = {n: v.clone() for n, v in setup.ema.state_dict().items()}

    def restore() -> None:
        setup.model.load_state_dict(saved["model"])
        setup.ema.load_state_dict(saved["ema"])

    sgd = {"lr_at": lambda step: 0.05}
    setup.optimizer = torch.optim.SGD(setup.model.parameters(), lr=0.1)
    reference.optimizer = torch.optim.SGD(reference.model.parameters(), lr=0.1)
    values = plain(batch_transforms=prepare_poisoned, nonfinite="rollback", restore=restore, **sgd)
    reports = []
    for report in setup.steps(poisoned(steps=5), **values):
        reports.append(report)
        if report.step == 0:
            save()
    batches = (work for work in toy_steps(steps=5) if work.step in (0, 3, 4))
    reference.train(batches, **plain(**sgd))
    assert_equal(setup.tensors(), reference.tensors())
    assert [r.rolled_back for r in reports] == [False, False, True, False, False]
    assert [r.skipped for r in reports] == [False, False, True, False, False]


class Bursting(ToyNet):
    """Has a finite loss and an infinite gradient, from the step it is told to."""

    burst = False

    def forward(self, images: Tensor) -> HeadLogits:
        heads = super().forward(images)
        if self.burst:
            heads.class_logits.register_hook(lambda gradient: gradient * math.inf)
        return heads


def test_a_gradient_that_bursts_is_caught_behind_a_finite_loss() -> None:
    setup = Setup.make(model=Bursting())
    incidents: list[NonFiniteStep] = []
    steps = setup.steps(toy_steps(steps=3), on_nonfinite=incidents.append)
    next(steps)
    before = setup.tensors()
    setup.model.burst = True
    with pytest.raises(DivergedError, match="gradient norm"):
        next(steps)
    assert_equal(setup.tensors(), before)
    assert math.isfinite(incidents[0].loss)
    assert not math.isfinite(incidents[0].grad_norm)
    assert incidents[0].suspects == []
    assert len(incidents[0].indices) == 7


def test_batch_norm_forgets_a_skipped_step() -> None:
    torch.manual_seed(0)
    values = plain(
        batch_transforms=prepare_poisoned,
        nonfinite="skip",
        objective=make_objective(kind="none"),
        teacher=None,
    )
    setup = Setup.make(model=ConvNet(), ema=False)
    steps = setup.steps(poisoned(steps=3), **values)
    next(steps), next(steps)
    before = setup.tensors()
    assert next(steps).skipped
    assert_equal(setup.tensors(), before)
    assert int(setup.model.norm.num_batches_tracked) == 8


class PooledNet(torch.nn.Module):
    """A batch norm over one value per image and channel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.head = torch.nn.Linear(3, K)

    def forward(self, images: Tensor) -> HeadLogits:
        return HeadLogits(self.head(self.norm(images.mean(dim=(2, 3)))), None)


def test_a_last_batch_of_one_image_goes_through_batch_norm() -> None:
    """Seven images in passes of two: the last goes alone, by the running statistics."""
    setup = Setup.make(model=PooledNet(), ema=False)
    values = {"objective": make_objective(kind="none"), "teacher": None}
    (report,) = setup.train(toy_steps(steps=1), **plain(**values))
    assert report.images == 7
    assert math.isfinite(report.loss)
    assert int(setup.model.norm.num_batches_tracked) == 3
    assert setup.model.norm.training


class CountingScaler(torch.amp.GradScaler):
    """A scaler at work on the CPU, which reports an overflow when it is told to."""

    def __init__(self) -> None:
        super().__init__("cpu", enabled=True, init_scale=4.0)


def test_an_overflow_of_the_scaler_is_no_divergence_until_the_scale_is_spent() -> None:
    setup = Setup.make(model=Bursting())
    scaler = CountingScaler()
    steps = setup.steps(toy_steps(steps=9), scaler=scaler, nonfinite="skip", nonfinite_budget=1)
    assert not next(steps).skipped
    before = setup.tensors()
    setup.model.burst = True
    scales = []
    for _ in range(3):
        report = next(steps)
        scales.append(scaler.get_scale())
        assert report.skipped
        assert report.nonfinite_seen == 0
    assert scales == [2.0, 1.0, 0.5]
    assert next(steps).nonfinite_seen == 1
    assert_equal(setup.tensors(), before)
    with pytest.raises(DivergedError):
        next(steps)


def test_a_scaler_does_not_change_the_gradient() -> None:
    scaled, unscaled = Setup.make(), Setup.make()
    ours = scaled.train(toy_steps(steps=3), scaler=CountingScaler())
    theirs = unscaled.train(toy_steps(steps=3))
    assert [r.loss for r in ours] == pytest.approx([r.loss for r in theirs])
    assert [r.grad_norm for r in ours] == pytest.approx([r.grad_norm for r in theirs])
    for name, value in unscaled.tensors().items():
        torch.testing.assert_close(scaled.tensors()[name], value, rtol=1e-5, atol=1e-6)


# Misuse


def test_misuse_is_refused_at_once() -> None:
    setup = Setup.make()
    with pytest.raises(ValueError, match="needs restore"):
        setup.train(toy_steps(steps=1), nonfinite="rollback")
    with pytest.raises(ValueError, match="'ignore' is not one of"):
        setup.train(toy_steps(steps=1), nonfinite="ignore")
    setup.model.extra = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"missing \['extra.weight'"):
        setup.train(toy_steps(steps=1))
    empty = ToyStep([], [], 7, 0, 0)
    with pytest.raises(ValueError, match="no micro-batch at step 0"):
        Setup.make().train(iter([empty]))


def test_the_toys_are_as_described() -> None:
    images, labels = pixels()
    assert images.shape == (IMAGES, 3, 2, 2)
    assert set(labels.tolist()) == set(range(K))
    assert CPU.type == "cpu"
