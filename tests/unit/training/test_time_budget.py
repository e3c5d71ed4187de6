"""A time budget is spent: the schedule follows the clock, whatever the machine does meanwhile."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deit_transfer.engine.schedule import learning_rate
from deit_transfer.recipe.durations import plan_durations
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Schedule
from deit_transfer.training import time_budget
from deit_transfer.training.callbacks import NoCallbacks
from deit_transfer.training.setup import SPENT_SHARE
from deit_transfer.training.time_budget import WRITING_S, TimeBudget
from deit_transfer.training.train import train

PLAN = plan_durations(Schedule(epochs=10, batch_size=10, warmup_epochs=1.0), images_per_epoch=100)


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_budget, "time", clock)
    return clock


def budget(seconds: float, *, step_s: float = 1.0, epoch_end_s: float = 0.0) -> TimeBudget:
    return TimeBudget(
        deadline=seconds + WRITING_S, scoring_s=5.0, epoch_end_s=epoch_end_s, step_s=step_s
    )


def test_a_plan_is_shortened_or_lengthened_to_the_time(clock: Clock) -> None:
    short, long = budget(45).fit(PLAN), budget(405).fit(PLAN)
    assert (short.total_steps, short.epochs, short.warmup_steps) == (40, 4, 4)
    assert (long.total_steps, long.epochs, long.warmup_steps) == (400, 40, 40)
    assert budget(3).fit(PLAN) == replace(PLAN, total_steps=1, epochs=1, warmup_steps=0)


def test_the_end_of_every_epoch_takes_its_part(clock: Clock) -> None:
    # ten steps and an end of 10 s are 20 s; one end is kept for the last epoch
    assert budget(5 + 10 + 100, epoch_end_s=10).steps_left(10) == 50


@pytest.mark.parametrize("true_step_s", [0.2, 1.0, 25.0])
def test_whatever_a_step_takes_the_time_is_spent(clock: Clock, true_step_s: float) -> None:
    spent = budget(1005)
    steps = 0
    while spent.steps_left(10) > 0:
        clock.now += true_step_s
        spent.measured_step(true_step_s)
        steps += 1
    assert steps == pytest.approx(1000 / true_step_s, abs=1.01)
    assert clock.now <= 1000


def test_a_machine_that_slows_down_is_noticed(clock: Clock) -> None:
    spent = budget(1005)
    while spent.steps_left(10) > 0:
        step_s = 1.0 if clock.now < 500 else 4.0
        clock.now += step_s
        spent.measured_step(step_s)
    assert 990 <= clock.now <= 1004


class Rates(NoCallbacks):
    """What a run shows of its steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rates: list[float] = []
        self.lengths: list[int] = []

    def step(self, report: object, total_steps: int) -> None:
        self.rates.append(report.lr)
        self.lengths.append(total_steps)


def test_the_learning_rate_falls_to_the_floor_as_the_time_runs_out(
    tmp_path: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """The estimate says 0.5 s a step; each takes 0.1 s at first, later 0.2 s."""
    from deit_transfer.engine import loop
    from deit_transfer.training import setup, trainer

    class StepClock:
        """Moves on where the loop looks at the time: twice before a step and once after it."""

        def __init__(self) -> None:
            self.looks = 0

        def perf_counter(self) -> float:
            self.looks += 1
            if self.looks % 3 == 0:
                clock.now += 0.1 if clock.now < 5 else 0.2
            return clock.now

    monkeypatch.setattr(loop, "time", StepClock())
    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(setup, "training_seconds", lambda plan, *_a, **_k: plan.total_steps * 0.5)
    monkeypatch.setattr(setup, "images_per_second", lambda *_a, **_k: 1e9)
    recipe = load_recipe(
        "scratch/folder",
        overrides={
            "data.dataset": str(image_folder("photos", train=8, test=2, size=16)),
            "model.name": "deit_micro",
            "model.resolution": 16,
            "run.device": "cpu",
            "run.time_budget_minutes": (10 + WRITING_S) / SPENT_SHARE / 60,
            "schedule.epochs": 4,
            "schedule.min_steps": 0,
            "schedule.warmup_epochs": 1,
            "schedule.batch_size": 4,
            "schedule.progressive": (),
            "optim.floor_lr": 1e-5,
        },
    )
    shown = Rates(clock)
    result = train(recipe, out=tmp_path, callbacks=shown, began=0.0)
    assert clock.now == pytest.approx(10, abs=0.4)
    assert len(shown.rates) == result["steps"] == pytest.approx(50 + 25, abs=3)
    assert shown.lengths[-1] == result["steps"]
    assert result["epochs"] == -(-result["steps"] // 6)
    peak = shown.rates.index(max(shown.rates))
    assert shown.rates[: peak + 1] == sorted(shown.rates[: peak + 1])
    assert shown.rates[peak:] == sorted(shown.rates[peak:], reverse=True)
    assert shown.rates[-1] < 0.01 * max(shown.rates) + 1e-5
    assert learning_rate(0.5, total_steps=1, peak_lr=1.0) == pytest.approx(0.5)
