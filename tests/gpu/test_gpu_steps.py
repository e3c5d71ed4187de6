"""Steps on a real CUDA device: captured, compiled and read late, against plain ones.

python -m pytest -m gpu tests/gpu
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deit_transfer.batch import Batch
from deit_transfer.data.pipeline.batch_transforms import make_batch_transforms, normalize
from deit_transfer.engine.captured_step import WARM_UP_STEPS, capture_cuda_graph
from deit_transfer.engine.device_copy import copy_to_device
from deit_transfer.engine.ema import Ema
from deit_transfer.engine.inference import predict_batches
from deit_transfer.engine.loop import StepReport, train_steps
from deit_transfer.engine.losses import make_objective
from deit_transfer.engine.memory_stats import peak_memory, reset_peak_memory
from deit_transfer.engine.optimizer import make_optimizer
from deit_transfer.engine.precision import resolve_precision
from deit_transfer.engine.state import TrainState
from deit_transfer.errors import DivergedError
from deit_transfer.models.classifier import build_classifier
from deit_transfer.models.compile import compile_network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]

CUDA = torch.device("cuda", 0)
K, SIDE, IMAGES, STEPS = 5, 32, 16, 50
BF16_RELATIVE = 2**-7  # one unit in the last place of bf16, and the one below


class Step:
    """One step's batch, whose micro-batches have the images' numbers."""

    def __init__(self, step: int, size: int = IMAGES, parts: int = 1, *, pinned: bool = True):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(
            0, 256, (size, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator
        )
        labels = torch.randint(0, K, (size,), generator=generator)
        indices = torch.arange(size)
        self.micro_batches = [
            Batch(
                i.pin_memory() if pinned else i,
                one.pin_memory() if pinned else one,
                n,
                torch.zeros_like(n),
                0,
            )
            for i, one, n in zip(
                images.chunk(parts), labels.chunk(parts), indices.chunk(parts), strict=True
            )
        ]
        self.numbers = list(range(parts))
        self.global_batch_size = size
        self.epoch, self.step = 0, step


class Counting:
    """Captures CUDA graphs, and counts captures and replays."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        replay = capture_cuda_graph(work)
        self.captures += 1

        def counted() -> None:
            self.replays += 1
            replay()

        return counted


class Run:
    """A small network in training on the GPU, made alike each time."""

    def __init__(self, *, name: str = "deit_micro", compiled: bool = False, **values: Any) -> None:
        torch.manual_seed(0)
        model = build_classifier(
            name=name, num_classes=K, resolution=SIDE, drop_path=values.pop("drop_path", 0.0)
        ).to(CUDA)
        ema = Ema(model, decay=0.9) if values.pop("ema", False) else None
        if compiled:
            compile_network(model, device=CUDA)
        precision = resolve_precision(values.pop("precision", "bf16"), CUDA)
        mixup = values.pop("mixup", 0.0)
        self.capture = Counting() if values.pop("captured", False) else None
        given: dict[str, Any] = {
            "model": model,
            "optimizer": make_optimizer(
                model.backbone, name="adamw", peak_lr=1e-3, weight_decay=0.05
            ),
            "objective": make_objective(kind="none"),
            "batch_transforms": make_batch_transforms(
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                num_classes=K,
                mixup=mixup,
                cutmix=mixup,
                mixup_prob=1.0,
                switch_prob=0.5,
                smoothing=0.1,
                erasing_prob=0.25 if mixup else 0.0,
                device=CUDA,
            ),
            "lr_at": lambda step: 1e-3 / (1 + step / 10),
            "precision": precision,
            "device": CUDA,
            "seed": 3,
            "augment_seed": 4,
            "scaler": precision.make_scaler(),
            "ema": ema,
            "read_late": self.capture is not None,
            "capture": self.capture,
            "copy_stream": torch.cuda.Stream(CUDA) if self.capture is not None else None,
        }
        self.state = TrainState(**{**given, **values})

    def train(self, steps: Iterator[Step], **values: Any) -> list[StepReport]:
        return list(train_steps(self.state, steps, **values))


def whole(steps: int = STEPS, start: int = 0) -> Iterator[Step]:
    return (Step(number) for number in range(start, steps))


def assert_same_losses(ours: list[StepReport], theirs: list[StepReport]) -> None:
    assert [r.step for r in ours] == [r.step for r in theirs]
    losses = [torch.tensor([r.loss for r in reports]) for reports in (ours, theirs)]
    assert len(set(losses[0].tolist())) == len(ours), "the losses do not change"
    torch.testing.assert_close(losses[0], losses[1], rtol=4 * BF16_RELATIVE, atol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_captured_losses_are_those_of_plain_steps(precision: str) -> None:
    plain, fast = Run(precision=precision), Run(precision=precision, captured=True)
    expected, reports = plain.train(whole()), fast.train(whole())
    assert fast.capture is not None
    assert (fast.capture.captures, fast.capture.replays) == (1, STEPS - WARM_UP_STEPS)
    assert_same_losses(reports, expected)


def test_late_losses_are_those_of_plain_steps() -> None:
    assert_same_losses(Run(read_late=True).train(whole()), Run().train(whole()))


def test_the_odd_last_batch_runs_uncaptured() -> None:
    def steps() -> Iterator[Step]:
        return (Step(n, size=7 if n % 10 == 9 else IMAGES) for n in range(STEPS))

    plain, fast = Run(), Run(captured=True)
    expected, reports = plain.train(steps()), fast.train(steps())
    assert fast.capture is not None
    assert (fast.capture.captures, fast.capture.replays) == (1, 45 - WARM_UP_STEPS)
    assert_same_losses(reports, expected)


def test_a_captured_run_resumes() -> None:
    reference = Run(captured=True, ema=True)
    expected = reference.train(whole(30))
    first = Run(captured=True, ema=True)
    first.train(whole(15))
    saved = copy.deepcopy(
        [
            first.state.model.state_dict(),
            first.state.optimizer.state_dict(),
            first.state.ema.state_dict(),
        ]
    )
    second = Run(captured=True, ema=True)
    second.state.model.load_state_dict(saved[0])
    second.state.optimizer.load_state_dict(saved[1])
    second.state.ema.load_state_dict(saved[2])
    assert_same_losses(second.train(whole(30, start=15)), expected[15:])
    for name, value in second.state.ema.state_dict().items():
        torch.testing.assert_close(
            value, reference.state.ema.state_dict()[name], rtol=0.02, atol=2e-3
        )


def test_the_average_follows_in_the_graph() -> None:
    plain = Run(ema=True, precision="fp32")
    fast = Run(ema=True, precision="fp32", captured=True)
    start = {name: value.clone() for name, value in fast.state.ema.state_dict().items()}
    plain.train(whole(20))
    fast.train(whole(20))
    expected = plain.state.ema.state_dict()
    moved = [not torch.equal(start[name], value) for name, value in expected.items()]
    assert any(moved)
    for name, value in fast.state.ema.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("in_graph", [True, False])
def test_a_teacher_in_and_outside_the_graph(in_graph: bool) -> None:
    torch.manual_seed(9)
    network = nn.Linear(3 * SIDE * SIDE, K).to(CUDA).requires_grad_(False)

    def teacher(images: Tensor, _batch: Batch) -> Tensor:
        return network(images.flatten(1)).float()

    values: dict[str, Any] = {
        "teacher": teacher,
        "objective": make_objective(kind="hard", through="class"),
    }
    plain, fast = Run(**values), Run(**values, captured=True, teacher_sees_images_only=in_graph)
    expected, reports = plain.train(whole(20)), fast.train(whole(20))
    assert_same_losses(reports, expected)
    assert [r.teacher_top1 for r in reports] == [r.teacher_top1 for r in expected]
    assert len({r.teacher_top1 for r in reports}) > 1


@pytest.mark.parametrize("values", [{"mixup": 0.8}, {"drop_path": 0.3}])
def test_what_is_drawn_follows_from_the_step(values: dict[str, Any]) -> None:
    expected, reports = (
        Run(**values).train(whole(30)),
        Run(**values, captured=True).train(whole(30)),
    )
    assert_same_losses(reports, expected)
    other = Run(**values, seed=77, augment_seed=78, captured=True).train(whole(30))
    assert max(abs(a.loss - b.loss) for a, b in zip(other, reports, strict=True)) > 0.02


def test_clipping_is_in_the_graph() -> None:
    expected = Run(clip_grad_norm=0.05, precision="fp32").train(whole(30))
    clipped = Run(clip_grad_norm=0.05, precision="fp32", captured=True)
    assert_same_losses(clipped.train(whole(30)), expected)
    gradients = [p.grad for p in clipped.state.trainable if p.grad is not None]
    assert nn.utils.get_total_norm(gradients).item() <= 0.0501


def test_rates_reach_every_replay() -> None:
    still = Run(lr_at=lambda step: 1e-3 if step < 10 else 0.0, captured=True)
    still.train(whole(10))
    saved = {name: value.clone() for name, value in still.state.model.state_dict().items()}
    still.train(whole(20, start=10))
    for name, value in still.state.model.state_dict().items():
        assert torch.equal(value, saved[name]), name


def test_the_compiled_network_trains_alike() -> None:
    compiled = Run(compiled=True, captured=True, drop_path=0.2).train(whole())
    assert_same_losses(compiled, Run(drop_path=0.2).train(whole()))


class Spoiled:
    """Makes the images of one step not finite, by its first label's step."""

    def __init__(self, inner: Callable[[Batch], tuple[Tensor, Tensor]], bad: Tensor) -> None:
        self.inner, self.bad = inner, bad.to(CUDA)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, targets = self.inner(batch)
        is_bad = (batch.images.reshape(-1)[:32] == self.bad).all()
        return torch.where(is_bad, images * torch.nan, images), targets


def spoiled_run(step: int) -> Run:
    run = Run(captured=True, ema=True)
    bad = Step(step).micro_batches[0].images.reshape(-1)[:32]
    run.state.batch_transforms = Spoiled(run.state.batch_transforms, bad)
    return run


@pytest.mark.parametrize("step", [1, 12])
def test_a_step_that_is_not_finite_is_left_out_on_the_device(step: int) -> None:
    run, weights = spoiled_run(step), []
    for report in train_steps(
        run.state, whole(20), nonfinite="skip", pauses_after=lambda _step: True
    ):
        weights.append(run.state.model.state_dict()["backbone.head.weight"].clone())
        assert report.skipped is (report.step == step)
    assert torch.equal(weights[step], weights[step - 1])
    assert not torch.equal(weights[step + 1], weights[step])
    assert all(bool(value.isfinite().all()) for value in run.state.ema.state_dict().values())


def test_the_error_policy_ends_a_captured_run() -> None:
    with pytest.raises(DivergedError, match="step 12 is not finite"):
        spoiled_run(12).train(whole(20))


def test_memory_that_runs_out_halves_the_pass_and_ends_capturing() -> None:
    run, failed = Run(captured=True), []
    inner = run.state.model.forward

    def short_of_memory(images: Tensor) -> Any:
        if len(images) == IMAGES and len(failed) < 1 and run.capture.replays == 0:
            failed.append(len(images))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(images)

    run.state.model.forward = short_of_memory
    reports = run.train(whole(10))
    assert failed == [IMAGES]
    assert reports[-1].forward_size == IMAGES // 2
    assert run.capture.captures == 0
    assert_same_losses(reports, Run().train(whole(10)))


def test_batches_copied_on_their_own_stream_arrive_whole() -> None:
    stream = torch.cuda.Stream(CUDA)
    for number in range(20):
        (batch,) = Step(number).micro_batches
        assert batch.images.is_pinned()
        torch.cuda._sleep(1_000_000)  # work that the copy must not be ordered behind
        there = copy_to_device(batch, CUDA, stream)
        assert torch.equal(there.images.cpu(), batch.images)
        assert torch.equal(there.labels.cpu(), batch.labels)


def test_unpinned_batches_give_the_same_losses() -> None:
    unpinned = (Step(number, pinned=False) for number in range(20))
    assert_same_losses(Run(captured=True).train(unpinned), Run().train(whole(20)))


def test_several_micro_batches_run_uncaptured() -> None:
    run = Run(captured=True)
    reports = run.train(Step(n, parts=2) for n in range(10))
    assert run.capture.captures == 0
    assert_same_losses(reports, Run().train(whole(10)))


def test_scoring_compiled_gives_the_same_decisions() -> None:
    plain, compiled = Run().state, Run(compiled=True).state

    def logits(state: TrainState) -> Tensor:
        batches = []
        for number in range(3):
            (batch,) = Step(number).micro_batches
            batches.append(batch._replace(indices=batch.indices + IMAGES * number))
        return predict_batches(
            state.model,
            batches,
            device=CUDA,
            precision=state.precision,
            normalize=lambda images: normalize(images, (0.5,) * 3, (0.5,) * 3),
        ).class_logits

    torch.testing.assert_close(logits(compiled), logits(plain), rtol=0.05, atol=0.02)


def test_peak_memory_is_that_of_the_device() -> None:
    reset_peak_memory(CUDA)
    before = peak_memory(CUDA)
    held = torch.zeros(64, 2**20, device=CUDA)
    del held
    assert 256 * 2**20 <= peak_memory(CUDA) - before <= 300 * 2**20
