"""Stop and kill runs, resume them from their checkpoints, and compare bit for bit."""

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toys import (
    CONTEXT,
    CPU,
    Setup,
    ToyNet,
    assert_equal,
    numbers_of,
    toy_steps,
)

from deit_transfer.engine.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from deit_transfer.engine.loop import StepReport
from deit_transfer.engine.losses import make_objective
from deit_transfer.engine.precision import resolve_precision
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import Preempted

STEPS = 7
TOTAL = 60  # of the killed runs, long enough not to end before the kill


def save(folder: Path, setup: Setup, report: StepReport, **state: Any) -> None:
    save_checkpoint(
        folder,
        tag="last",
        step=report.step + 1,
        model=setup.model.state_dict(),
        ema=setup.ema.state_dict() if setup.ema else None,
        state={
            "optimizer": setup.optimizer.state_dict(),
            "nonfinite_seen": report.nonfinite_seen,
            "forward_size": report.forward_size,
            **state,
        },
    )


def resume(folder: Path, setup: Setup) -> int:
    loaded = load_checkpoint(folder)
    setup.model.load_state_dict(loaded.model)
    setup.optimizer.load_state_dict(loaded.state["optimizer"])
    if setup.ema and loaded.ema:
        setup.ema.load_state_dict(loaded.ema)
    return loaded.step


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_stopped_and_resumed_is_bit_for_bit_uninterrupted(
    tmp_path: Path, optimizer: str, stop_after: int
) -> None:
    whole = Setup.make(optimizer=optimizer)
    expected = numbers_of(whole.train(toy_steps(steps=STEPS)))

    first = Setup.make(optimizer=optimizer)
    reports = first.train(toy_steps(steps=stop_after))
    save(tmp_path, first, reports[-1])
    second = Setup.make(optimizer=optimizer, seed=77)  # everything must come from the checkpoint
    start = resume(tmp_path, second)
    reports += second.train(toy_steps(start=start, steps=STEPS))

    assert numbers_of(reports) == expected
    assert_equal(second.tensors(), whole.tensors())


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("kind", ["none", "hard"])
def test_resume_is_exact_in_bf16_and_every_objective(tmp_path: Path, ema: bool, kind: str) -> None:
    values: dict[str, Any] = {
        "precision": resolve_precision("bf16", CPU),
        "objective": make_objective(kind=kind),
    }
    if kind == "none":
        values["teacher"] = None
    whole, first = Setup.make(ema=ema), Setup.make(ema=ema)
    expected = numbers_of(whole.train(toy_steps(steps=STEPS), **values))
    reports = first.train(toy_steps(steps=4), **values)
    save(tmp_path, first, reports[-1])
    second = Setup.make(ema=ema, seed=77)
    start = resume(tmp_path, second)
    reports += second.train(toy_steps(start=start, steps=STEPS), **values)
    assert numbers_of(reports) == expected
    assert_equal(second.tensors(), whole.tensors())


def test_a_damaged_checkpoint_costs_steps_and_no_bits(tmp_path: Path) -> None:
    whole, first = Setup.make(), Setup.make()
    whole.train(toy_steps(steps=STEPS))
    for report in first.steps(toy_steps(steps=5)):
        save(tmp_path, first, report)
    newest = list_checkpoints(tmp_path, tag="last")[-1]
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    second = Setup.make(seed=77)
    assert resume(tmp_path, second) == 4
    second.train(toy_steps(start=4, steps=STEPS))
    assert_equal(second.tensors(), whole.tensors())


def test_rollback_through_a_checkpoint_leaves_an_exact_run(tmp_path: Path) -> None:
    """A rolled-back run, killed after the rollback and resumed, ends like one not killed."""

    def spoiled(batch: Any) -> Any:
        images, targets = batch.images.float() / 255, torch.eye(4)[batch.labels]
        return (images * float("nan") if batch.epoch == 1 else images), targets

    def run(setup: Setup, folder: Path, start: int, stop: int) -> list[StepReport]:
        reports = []
        values = {"batch_transforms": spoiled, "nonfinite": "rollback"}
        steps = setup.steps(
            toy_steps(start=start, steps=stop), restore=lambda: resume(folder, setup), **values
        )
        for report in steps:
            reports.append(report)
            if report.step % 2 == 1:
                save(folder, setup, report)
        return reports

    whole, first, second = Setup.make(), Setup.make(), Setup.make(seed=77)
    reports = run(whole, tmp_path / "whole", 0, 8)
    assert [r.step for r in reports if r.rolled_back] == [3, 4, 5]
    run(first, tmp_path / "cut", 0, 7)
    run(second, tmp_path / "cut", resume(tmp_path / "cut", second), 8)
    assert_equal(second.tensors(), whole.tensors())


def _train_in_child(folder: Path, save_every: int) -> None:
    torch.set_num_threads(1)
    setup = Setup.make()
    start = resume(folder, setup) if list_checkpoints(folder, tag="last") else 0
    for report in setup.steps(toy_steps(start=start, steps=TOTAL)):
        if (report.step + 1) % save_every == 0:
            save(folder, setup, report)
    digest = hashlib.sha256()
    for value in setup.tensors().values():
        digest.update(value.numpy().tobytes())
    (folder / "digest").write_text(digest.hexdigest())


def _steps_saved(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder, tag="last")]


def _run_child(folder: Path, *, kill_after_s: float | None = None) -> bool:
    """Run a training process, or kill it so long after a save; tell whether it came to its end."""
    before = _steps_saved(folder)
    process = CONTEXT.Process(target=_train_in_child, args=(folder, 3))
    process.start()
    if kill_after_s is not None:
        while _steps_saved(folder) == before and process.is_alive():
            time.sleep(0.002)
        time.sleep(kill_after_s)
        process.kill()
    process.join(60)
    return process.exitcode == 0


def test_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert _run_child(tmp_path / "whole")
    cut = tmp_path / "cut"
    for kill in range(3):
        assert not _run_child(cut, kill_after_s=0.01 * kill)
        assert 0 < load_checkpoint(cut).step < TOTAL
    assert _run_child(cut)
    assert (cut / "digest").read_text() == (tmp_path / "whole" / "digest").read_text()


def test_a_signal_ends_the_step_saves_and_is_resumed_exactly(tmp_path: Path) -> None:
    whole, first, second = Setup.make(), Setup.make(), Setup.make(seed=77)
    whole.train(toy_steps(steps=STEPS))

    def train_until_told(setup: Setup) -> None:
        with StopSignals() as stop:
            for report in setup.steps(toy_steps(steps=STEPS)):
                if report.step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                if stop.requested():
                    save(tmp_path, setup, report)
                    stop.check()

    with pytest.raises(Preempted):
        train_until_told(first)
    start = resume(tmp_path, second)
    assert start == 3
    second.train(toy_steps(start=start, steps=STEPS))
    assert_equal(second.tensors(), whole.tensors())


def test_toy_dropout_is_on() -> None:
    # If the network were not stochastic, the tests above would prove less than they say.
    model = ToyNet().train()
    images = torch.ones(1, 3, 2, 2)
    assert not torch.equal(model(images).class_logits, model(images).class_logits)
