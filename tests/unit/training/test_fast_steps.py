"""The rules by which a run compiles its network and captures its steps."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from deit_transfer.engine.distributed import World
from deit_transfer.engine.precision import resolve_precision
from deit_transfer.errors import UsageError
from deit_transfer.recipe.schema import Recipe
from deit_transfer.training import fast_steps
from deit_transfer.training.fast_steps import (
    COMPILING_S,
    COMPILING_SAVES,
    MIN_CAPTURED_STEPS,
    StepChoice,
    choose_capture,
    choose_compiling,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FP32 = resolve_precision("fp32", CPU)


def recipe(**sections: dict[str, object]) -> Recipe:
    return Recipe(mode="finetune", **sections)


def capture_of(made: Recipe, *, device: torch.device = CUDA, **values: object) -> StepChoice:
    given = {"total_steps": 1000, "world": World()} | values
    network = given.pop("network", nn.Linear(2, 2))
    precision = given.pop("precision", FP32)
    return choose_capture(made, network, device, precision, **given)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_steps, "why_no_compiler", lambda _device: "")


@pytest.mark.usefixtures("compiler")
def test_compiles_on_a_gpu_once_it_earns_its_time_back() -> None:
    enough = COMPILING_S / COMPILING_SAVES
    assert choose_compiling(recipe(), CUDA, estimated_s=2 * enough).on
    short = choose_compiling(recipe(), CUDA, estimated_s=0.9 * enough)
    assert not short.on
    assert short.reason == "not compiled: saves about 18 s, takes about 20 s"
    assert not choose_compiling(recipe(), CUDA, estimated_s=None).on


def test_no_compiler_is_no_error_under_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_steps, "why_no_compiler", lambda _device: "no Triton")
    choice = choose_compiling(recipe(), CUDA, estimated_s=1e6)
    assert choice == StepChoice(False, "not compiled: no Triton")


def test_on_a_cpu_nothing_is_chosen_and_nothing_said() -> None:
    assert choose_compiling(recipe(), CPU, estimated_s=1e6) == StepChoice(False)
    assert capture_of(recipe(), device=CPU) == StepChoice(False)


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_set_is_done(asked: bool) -> None:
    made = recipe(run={"compile": asked, "graph": asked})
    assert choose_compiling(made, CPU, estimated_s=None) == StepChoice(asked)
    assert capture_of(made, total_steps=1) == StepChoice(asked)


def test_captures_from_a_number_of_steps_on() -> None:
    assert capture_of(recipe(), total_steps=MIN_CAPTURED_STEPS).on
    few = capture_of(recipe(), total_steps=MIN_CAPTURED_STEPS - 1)
    assert not few.on
    assert few.reason.endswith(f"{MIN_CAPTURED_STEPS - 1} are fewer than {MIN_CAPTURED_STEPS}")


@pytest.mark.parametrize(
    ("sections", "values", "reason"),
    [
        ({"optim": {"name": "lamb"}}, {}, "lamb cannot leave out"),
        ({"optim": {"name": "sgd"}}, {}, "sgd cannot leave out"),
        ({"run": {"nonfinite": "rollback"}}, {}, "rollback"),
        ({"schedule": {"batch_size": 64, "micro_batch_size": 16}}, {}, "4 micro-batches"),
        ({}, {"world": World(rank=0, size=2)}, "2 processes"),
        ({}, {"network": nn.BatchNorm1d(2)}, "batch norms"),
        ({}, {"precision": replace(FP32, name="fp16")}, "loss scaler"),
    ],
)
def test_an_obstacle_is_named_and_an_error_where_a_graph_is_asked_for(
    sections: dict[str, dict[str, object]], values: dict[str, object], reason: str
) -> None:
    choice = capture_of(recipe(**sections), **values)
    assert not choice.on
    assert reason in choice.reason
    run = {**sections.get("run", {}), "graph": True}
    with pytest.raises(UsageError, match=reason):
        capture_of(recipe(**{**sections, "run": run}), **values)


def test_a_graph_asked_for_on_a_cpu_is_an_error() -> None:
    with pytest.raises(UsageError, match="the device is cpu"):
        capture_of(recipe(run={"graph": True}), device=CPU)
