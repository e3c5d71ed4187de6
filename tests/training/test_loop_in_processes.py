"""Train and evaluate in two and three processes over gloo, and compare with one."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toys import (
    CONTEXT,
    CPU,
    ConvNet,
    Setup,
    ToyNet,
    ToyStep,
    numbers_of,
    pixels,
    prepare_plainly,
    toy_steps,
)
from torch import Tensor

from deit_transfer.batch import Batch
from deit_transfer.engine import distributed
from deit_transfer.engine.distributed import World, connected
from deit_transfer.engine.inference import Predictions, head_scores, predict_batches
from deit_transfer.engine.losses import make_objective
from deit_transfer.engine.precision import resolve_precision
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DeitTransferError, DivergedError, Preempted

Work = Callable[[World], Any]


def _process(work: Work, world: World, folder: Path, queue: Any) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    init_method = f"file://{folder / 'meeting'}"
    try:
        with connected(world, device=CPU, init_method=init_method, timeout_s=30):
            queue.put((world.rank, work(world)))
    except Exception:
        queue.put((world.rank, traceback.format_exc()))


def run_processes(work: Work, size: int, folder: Path) -> list[Any]:
    """Run work in so many processes and return what each gives back, by rank."""
    queue = CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_process, args=(work, World(rank, size, rank), folder, queue))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    answers = dict(queue.get(timeout=40) for _ in processes)
    for process in processes:
        process.join(10)
    assert all(not isinstance(answer, str) for answer in answers.values()), answers
    return [answers[rank] for rank in range(size)]


def numpy_of(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in tensors.items()}


def train_share(world: World) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    setup = Setup.make(seed=world.rank)  # rank 0's weights must win
    distributed.BUCKET_ELEMENTS = 50  # several buckets
    reports = setup.train(toy_steps(steps=5, world=world), world=world)
    return numbers_of(reports), numpy_of(setup.tensors())


@pytest.mark.parametrize("size", [2, 3])
def test_training_equals_one_process(tmp_path: Path, size: int) -> None:
    # 7 images in micro-batches of 2, 2, 2 and 1: no two processes have equal shares.
    alone = Setup.make(seed=0)
    expected = numbers_of(alone.train(toy_steps(steps=5)))
    answers = run_processes(train_share, size, tmp_path)
    for reports, tensors in answers:
        assert len(reports) == len(expected)
        for ours, theirs in zip(reports, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        for name, value in alone.tensors().items():
            torch.testing.assert_close(
                torch.as_tensor(tensors[name]), value, rtol=1e-4, atol=2e-6, msg=name
            )
    for _, tensors in answers[1:]:
        for name, value in answers[0][1].items():
            assert (tensors[name] == value).all(), name


def normalize(images: Tensor) -> Tensor:
    return images.float() / 255 - 0.5


def split_share(world: World, size: int = 3) -> Iterator[Batch]:
    images, labels = pixels()
    own = torch.arange(len(labels))[world.rank :: world.size]
    for part in own.split(size):
        yield Batch(images[part], labels[part], part, torch.zeros_like(part), 0)


def toy_predictions(world: World, **values: Any) -> Predictions:
    torch.manual_seed(0)
    precision = resolve_precision("fp32", CPU)
    return predict_batches(
        ToyNet(),
        split_share(world),
        device=CPU,
        precision=precision,
        normalize=normalize,
        world=world,
        **values,
    )


def evaluate_share(world: World) -> Any:
    with StopSignals() as stop:
        predictions = toy_predictions(world, stop=stop)
    return predictions.indices.numpy(), predictions.class_logits.numpy(), head_scores(predictions)


def test_evaluation_counts_each_image_once(tmp_path: Path) -> None:
    # 64 images over three processes: 22, 21 and 21, so that one has a batch more.
    _, logits, expected = evaluate_share(World())
    for indices, ours, scored in run_processes(evaluate_share, 3, tmp_path):
        assert indices.tolist() == list(range(64))
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(logits))
        assert scored.keys() == expected.keys()
        for name, score in scored.items():
            assert score.n == 64
            assert score.top1 == expected[name].top1
            assert score.loss == pytest.approx(expected[name].loss, rel=1e-6)


def stop_share(world: World) -> int:
    with StopSignals() as stop:
        assert not stop.requested(world)
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted) as caught:
            toy_predictions(world, stop=stop)
        assert stop.requested(world)
    return caught.value.exit_code


def talk_share(world: World) -> tuple[Any, ...]:
    tensor = torch.tensor([float(world.rank), 1.0])
    world.barrier()
    return (
        world.sum_(tensor).tolist(),
        world.maximum(world.rank),
        world.any(world.rank == 1),
        world.any(False),
        world.gather({"rank": world.rank}),
        world.broadcast(f"from {world.rank}"),
    )


def nan_share(world: World) -> tuple[Any, ...]:
    """Spoil one image that only the last process holds; all must see it and agree."""

    def prepare(batch: Batch) -> tuple[Tensor, Tensor]:
        images, targets = prepare_plainly(batch)
        return (images * float("nan") if batch.epoch == -1 else images), targets

    def spoil(batches: Iterator[ToyStep]) -> Iterator[ToyStep]:
        for work in batches:
            if work.step == 1 and world.rank == world.size - 1:
                work.micro_batches[0] = work.micro_batches[0]._replace(epoch=-1)
            yield work

    incidents: list[Any] = []
    setup = Setup.make()
    values = {"batch_transforms": prepare, "world": world, "on_nonfinite": incidents.append}
    batches = spoil(toy_steps(steps=3, world=world))
    skipped = [r.skipped for r in setup.train(batches, nonfinite="skip", **values)]
    with pytest.raises(DivergedError) as caught:
        setup.train(spoil(toy_steps(steps=3, world=world)), **values)
    first = incidents[0]
    return skipped, first.indices, first.suspects, caught.value.message


def batch_norm_share(world: World) -> dict[str, Any]:
    torch.manual_seed(0)
    setup = Setup.make(model=ConvNet(), ema=False)
    values = {"batch_transforms": prepare_plainly, "objective": make_objective(kind="none")}
    setup.train(toy_steps(steps=1, world=world), world=world, teacher=None, **values)
    return numpy_of(setup.model.state_dict())


def batch_norm_by_hand(size: int) -> Tensor:
    """Each process's running mean over its own micro-batches, weighted by their images."""
    mean = torch.zeros(4)
    for rank in range(size):
        torch.manual_seed(0)
        model = ConvNet()
        (work,) = toy_steps(steps=1, world=World(rank, size))
        for batch in work.micro_batches:
            model(prepare_plainly(batch)[0])
        images = sum(len(batch.labels) for batch in work.micro_batches)
        mean += model.norm.running_mean * images / work.global_batch_size
    return mean


def all_of(world: World) -> list[Any]:
    """Everything that needs no process group of its own, in one start of processes."""
    return [talk_share(world), stop_share(world), nan_share(world), batch_norm_share(world)]


def test_processes_agree(tmp_path: Path) -> None:
    answers = run_processes(all_of, 2, tmp_path)
    talked, stopped, diverged, normed = zip(*answers, strict=True)

    gathered = [{"rank": 0}, {"rank": 1}]
    assert talked == (([1.0, 2.0], 1, True, False, gathered, "from 0"),) * 2

    assert stopped == (75, 75)

    assert diverged[0] == diverged[1]
    skipped, indices, suspects, message = diverged[0]
    assert skipped == [False, True, False]
    (work,) = toy_steps(start=1, steps=2)
    assert indices == sorted(i for batch in work.micro_batches for i in batch.indices.tolist())
    assert suspects == sorted(work.micro_batches[1].indices.tolist())
    assert "step 1 is not finite" in message

    for name, value in normed[0].items():
        assert (value == normed[1][name]).all(), name
    means = torch.as_tensor(normed[0]["norm.running_mean"])
    torch.testing.assert_close(means, batch_norm_by_hand(2))


def lose_a_peer(world: World) -> tuple[str, int]:
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(DeitTransferError, match="another process of this run has ended") as caught:
        Setup.make().train(toy_steps(steps=2, world=world), world=world)
    return ("told", caught.value.exit_code)


def test_a_lost_process_ends_the_others_with_one_sentence(tmp_path: Path) -> None:
    queue = CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_process, args=(lose_a_peer, World(rank, 2), tmp_path, queue))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    assert queue.get(timeout=30) == (0, ("told", 1))
    for process in processes:
        process.join(10)
