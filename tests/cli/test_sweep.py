"""The sweep's command line: who is the dataset, what goes together, and how it ends."""

import sys
from pathlib import Path
from typing import NoReturn

import pytest
from program import QUICK, run_program


def without_optuna() -> None:
    sys.modules["optuna"] = None  # type: ignore[assignment]


def every_trial_diverges() -> None:
    from deit_transfer.errors import DivergedError
    from deit_transfer.experiments import sweep_trials

    def diverge(*parts: object, **named: object) -> NoReturn:
        raise DivergedError("step 3 is not finite")

    sweep_trials.train_or_reuse = diverge


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "takes one dataset, got 0"),
        (("photos", "pairs", "--grid=optim.eps=1e-8"), "got 2: photos, pairs"),
        (("photos",), "nothing is varied"),
        (("photos", "--recipes=ablation/*", "--grid=optim.eps=1", "--mode=scratch"),
         "--grid, --mode cannot be had with it"),
        (("photos", "--recipes=ablation/nothing"), "no such recipe"),
        (("photos", "--space=optim.eps=1e-9..1e-8"), "a range needs --trials"),
        (("photos", "--grid=optim.eps=1e-8", "--trials=0"), "--trials"),
        (("photos", "--grid=optim.peak_lr=1e-3", "--lr=1e-2"), "both varied and set"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    workplace: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = run_program("sweep", *arguments, "--out=refused", folder=workplace)
    assert ended.code == 2
    assert said in ended.said
    assert "Traceback" not in ended.err
    assert not (workplace / "refused").exists()


def test_a_search_without_optuna_names_what_to_install(workplace: Path) -> None:
    arguments = ("--trials=2", "--space=optim.peak_lr=1e-4..1e-3:log", "--out=refused")
    ended = run_program(
        "sweep", "photos", *QUICK, *arguments, folder=workplace, prepare=[without_optuna]
    )
    assert ended.code == 2
    assert "pip install 'deit-transfer[sweep]'" in ended.said


def test_words_after_recipes_are_recipes_as_a_shell_makes_them(workplace: Path) -> None:
    for name, decay in (("one", 0.1), ("default", 0.0), ("two", 0.2)):
        (workplace / f"{name}.toml").write_text(
            'extends = "scratch/folder"\nmode = "scratch"\n'
            f'[data]\ndataset = "photos"\n[optim]\nweight_decay = {decay}\n'
        )
    words = ("--recipes", "default.toml", "one.toml", "two.toml")
    told = run_program("sweep", *words, *QUICK, "--out=ablation", "--json", folder=workplace)
    assert told.code == 0, told.err
    assert [row["recipe"] for row in told.json["trials"]] == ["default", "one", "two"]
    assert told.json["default"] == "default"
    same = ("sweep", "photos", *words, *QUICK, "--out=ablation", "--json")
    again = run_program(*same, folder=workplace)
    assert [row["reused"] for row in again.json["trials"]] == [True] * 3
    assert again.json["folder"] == told.json["folder"]


def test_a_sweep_of_which_nothing_finished_shows_its_table_and_fails(workplace: Path) -> None:
    command = ("sweep", "photos", *QUICK, "--mode=scratch", "--grid=optim.peak_lr=0.1,0.2")
    ended = run_program(*command, "--out=failing", folder=workplace, prepare=[every_trial_diverges])
    assert ended.code == 5
    assert ended.out.count("diverged") == 2
    assert "there is no winner" in ended.out
    assert "None of 2 trials finished: step 3 is not finite" in ended.said
