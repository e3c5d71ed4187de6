"""Every command answers people and programs, and says the same to both."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from program import QUICK, Ended, run_program

from deit_transfer.recipe.loader import list_recipes


def answers(workplace: Path, *command: str) -> tuple[str, dict]:
    """A command's screens, and its object."""
    shown = run_program(*command, folder=workplace)
    told = run_program(*command, "--json", folder=workplace)
    assert shown.code == told.code == 0, shown.err + told.err
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80
    return shown.out, told.json


def test_evaluate_reproduces_the_runs_own_figures(workplace: Path, finished: Ended) -> None:
    shown, told = answers(workplace, "evaluate", "runs/first")
    for figure in ("top1", "top5", "mean_per_class", "loss", "num_test_images", "top1_ci95"):
        assert told[figure] == finished.json[figure]
    assert told["run"] == "runs/first"
    assert f"{told['top1']:.2f}" in shown


def test_evaluate_goes_by_the_names_of_classes_not_their_order(
    workplace: Path, finished: Ended
) -> None:
    # in pairs/ "owl" is the second class, and the run's third
    stored = np.load(workplace / "runs" / "first" / "predictions-test.npz")
    chosen = [name.startswith(("test/owl/", "test/cat/")) for name in stored["ids"]]
    right = stored["class_logits"].argmax(axis=1) == stored["labels"]
    _, told = answers(workplace, "evaluate", "runs/first", "pairs")
    assert told["num_test_images"] == 8
    assert told["top1"] == pytest.approx(100 * right[chosen].mean())
    assert right[chosen].any()
    assert told["dataset"] == "pairs"


def test_runs_are_listed_and_shown(workplace: Path, finished: Ended) -> None:
    shown, told = answers(workplace, "runs", "list")
    row = next(row for row in told["runs"] if row["run"] == "first")
    assert row["state"] == "done"
    assert row["top1"] == finished.json["top1"]
    assert "first" in shown
    shown, told = answers(workplace, "runs", "show", "runs/first")
    assert told["result"] == finished.json
    assert [epoch["epoch"] for epoch in told["epochs"]] == [1, 2, 3, 4, 5, 6]
    assert told["data"]["counts"] == finished.json["counts"]
    assert told["environment"]["packages"]["torch"]
    assert "6/6" in shown


def test_runs_of_an_empty_place_are_none(workplace: Path, tmp_path: Path) -> None:
    # before the first run the usual folder is not there
    for folder, place in ((workplace, ("photos",)), (tmp_path, ())):
        shown, told = answers(folder, "runs", "list", *place)
        assert told == {"runs": []}
        assert "no runs" in shown


def test_runs_of_a_folder_that_is_not_there_are_an_error(workplace: Path) -> None:
    ended = run_program("runs", "list", "nowhere", folder=workplace)
    assert (ended.code, ended.out) == (3, "")
    assert "there is no folder nowhere" in ended.said
    assert "without a name it is runs" in ended.said


def test_datasets_are_listed_and_checked(workplace: Path) -> None:
    shown, told = answers(workplace, "data", "list")
    names = {row["name"] for row in told["datasets"]}
    assert {"digits", "cifar10", "cifar100", "folder"} <= names
    assert all(name in shown for name in ("digits", "cifar10"))
    shown, told = answers(workplace, "data", "check", "photos")
    assert told["counts"] == {"train": 24, "test": 12}
    assert told["problems"] == []
    assert "Ready to train on" in shown


def test_recipes_are_listed_shown_compared_and_checked(workplace: Path) -> None:
    shown, told = answers(workplace, "recipes", "list")
    assert [row["name"] for row in told["recipes"]] == list_recipes()
    shown, told = answers(workplace, "recipes", "diff", "scratch/digits", "finetune/digits")
    assert "optim.layer_decay" in {row["setting"] for row in told["differences"]}
    assert "optim.layer_decay" in shown
    shown, told = answers(workplace, "recipes", "check")
    assert told["recipes"] == {name: [] for name in list_recipes()}
    assert "0 with faults" in shown


def test_recipes_are_filtered_by_a_word_of_their_name_or_title(workplace: Path) -> None:
    _, told = answers(workplace, "recipes", "list", "CIFAR10")
    names = [row["name"] for row in told["recipes"]]
    assert "finetune/cifar10" in names
    assert "scratch/digits" not in names
    _, told = answers(workplace, "recipes", "list", "no such word")
    assert told["recipes"] == []


def test_a_shown_recipe_is_a_recipe(workplace: Path) -> None:
    shown = run_program("recipes", "show", "finetune/cifar10", folder=workplace).out
    told = run_program("recipes", "show", "finetune/cifar10", "--json", folder=workplace).json
    values = tomllib.loads(shown)
    for section in ("data", "model", "augment", "optim", "schedule"):
        given = {key: value for key, value in told[section].items() if value is not None}
        assert values[section] == given
    (workplace / "shown.toml").write_text(shown)
    checked = run_program("recipes", "check", "shown.toml", folder=workplace)
    assert checked.code == 0, checked.err


def test_plan_says_what_a_run_would_do_and_writes_nothing(workplace: Path) -> None:
    before = sorted(workplace.iterdir())
    shown, told = answers(workplace, "plan", "scratch", "photos", *QUICK, "--out=planned")
    assert told["steps"] == 6
    assert told["images_to_see"] == 44
    assert told["counts"] == {"train": 22, "val": 2, "test": 12}
    assert told["estimated_seconds"] > 0
    assert "2 epochs, 6 steps, 44 images seen" in shown
    assert sorted(workplace.iterdir()) == before


def test_plan_of_fine_tuning_says_what_the_start_gives(workplace: Path, finished: Ended) -> None:
    command = ("plan", "finetune", "pairs", *QUICK, "--from=runs/first", "--batch-size=2")
    shown, told = answers(workplace, *command)
    assert any("copied" in line for line in told["load_report"])
    assert "head.weight" in shown


def test_a_recorded_recipe_can_be_run_again_to_the_same_weights(
    workplace: Path, finished: Ended
) -> None:
    run = workplace / "runs" / "first"
    command = ("scratch", "photos", f"--recipe={run / 'recipe.toml'}", "--name=again", "--quiet")
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0, ended.err
    again = workplace / "runs" / "again"
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_finetune_starts_from_a_run_and_tells_what_it_took(
    workplace: Path, finished: Ended
) -> None:
    command = ("finetune", "photos", *QUICK, "--from=runs/first", "--name=tuned", "--json")
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0, ended.err
    assert ended.json["mode"] == "finetune"
    assert ended.json["pretrained"] == str(workplace / "runs" / "first")
    assert "copied: 99.9%" in ended.err
    assert "head.weight" in ended.err


def test_resume_without_a_name_finds_the_finished_run(workplace: Path, finished: Ended) -> None:
    command = ("scratch", "photos", *QUICK, "--epochs=6", "--lr=0.05", "--resume", "--json")
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0
    assert ended.json["top1"] == finished.json["top1"]
    assert "finished already" in ended.said


def test_a_finished_run_that_should_be_longer_names_the_command(
    workplace: Path, finished: Ended
) -> None:
    longer = ("scratch", "photos", *QUICK, "--epochs=9", "--lr=0.05", "--name=first", "--resume")
    ended = run_program(*longer, folder=workplace)
    assert ended.code == 2
    assert "first is finished" in ended.said
    assert "schedule.epochs was 6 and is 9" in ended.said
    assert "--from runs/first --epochs 9" in ended.said


def test_a_time_budget_shortens_a_run_and_says_so(workplace: Path) -> None:
    command = ("plan", "scratch", "photos", *QUICK, "--epochs=5000", "--time-budget=0.01")
    shown, told = answers(workplace, *command)
    assert told["epochs"] < 5000
    assert told["estimated_seconds"] <= 0.6
    assert "shortened from 5000 to fit the time budget" in " ".join(shown.split())


@pytest.mark.parametrize("command", [("scratch",), ("pretrain",), ("plan", "scratch")])
def test_what_starts_from_nothing_names_the_command_that_does_not(
    workplace: Path, command: tuple[str, ...]
) -> None:
    ended = run_program(*command, "photos", "--from=imagenet", folder=workplace)
    assert (ended.code, ended.out) == (2, "")
    assert "trains from scratch, not from 'imagenet'" in ended.said
    assert "Hint: deit-transfer finetune photos --from imagenet" in ended.said
    assert "--from" not in run_program(*command, "--help", folder=workplace).out


def test_a_dataset_that_is_not_there_is_said_before_the_start(workplace: Path) -> None:
    for command in (("finetune", "fotos", "--from=none"), ("scratch", "fotos", "--from=imagenet")):
        ended = run_program(*command, folder=workplace)
        assert ended.code == 2
        assert "no dataset and no folder is called 'fotos'" in ended.said
    ended = run_program("finetune", "./fotos", "--from=none", folder=workplace)
    assert ended.code == 3
    assert "there is no folder ./fotos" in ended.said
    there = run_program("finetune", "photos", "--from=none", folder=workplace)
    assert "deit-transfer scratch photos" in there.said


def test_a_start_that_is_not_there_has_one_hint(workplace: Path) -> None:
    empty = workplace / "empty"  # no weights file lies in it
    empty.mkdir()
    start = ("../photos", *QUICK, "--from=nothere.safetensors")
    said = [run_program(*c, *start, folder=empty) for c in (("finetune",), ("plan", "finetune"))]
    assert said[0].code == said[1].code == 4
    assert said[0].said == said[1].said
    assert "Give the path of one, of a run's folder, or imagenet" in said[0].said
