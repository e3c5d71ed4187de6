"""Sweeps: chosen on validation, gone on with, pruned, and the losers' test figures never shown."""

import json
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from photos import write_photos
from program import QUICK, Ended, run_program
from trained_by_rule import ByRule
from traps import Strike

from deit_transfer.errors import DataError, DivergedError, RecipeError, ResourceError, UsageError
from deit_transfer.experiments import sweep_trials as searching
from deit_transfer.experiments.sweep import SweepSettings, sweep, sweep_recipes
from deit_transfer.recipe.loader import list_recipes, load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.training.callbacks import NoCallbacks

GRID = ("sweep", "photos", *QUICK, "--mode=scratch", "--grid=optim.peak_lr=0.05,1e-6")
ROW_KEYS = {
    "trial", "settings", "recipe", "state", "val_top1", "epoch", "epochs", "minutes", "run",
    "reused", "reason",
}  # fmt: skip
SMALL: dict[str, Any] = {
    "model.name": "deit_micro",
    "model.resolution": 16,
    "schedule.epochs": 6,
    "schedule.batch_size": 8,
    "optim.floor_lr": 0,
    "optim.warmup_lr": 0,
    "run.device": "cpu",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_photos(folder / "photos", size=16)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Photos with enough of them to hold some out."""
    folder = tmp_path_factory.mktemp("many")
    return str(write_photos(folder / "photos", counts={"train": 40, "test": 10}, size=16))


@pytest.fixture(scope="module")
def gone_on(place: Path) -> Ended:
    """A grid of two trials that was killed in the second one, and called again."""
    in_the_second = Strike("deit_transfer.training.trainer:Trainer.after_step", 8)
    killed = run_program(*GRID, "--json", folder=place, prepare=[in_the_second])
    assert killed.code == -SIGKILL
    return run_program(*GRID, "--json", folder=place)


def test_a_grid_that_was_cut_off_goes_on_and_is_chosen_on_validation(
    place: Path, gone_on: Ended
) -> None:
    assert gone_on.code == 0, gone_on.err
    found = gone_on.json
    rows = found["trials"]
    assert [row["settings"] for row in rows] == [{"optim.peak_lr": 0.05}, {"optim.peak_lr": 1e-6}]
    assert [row["state"] for row in rows] == ["done", "done"]
    assert [row["reused"] for row in rows] == [True, False]
    assert "resumed at step" in gone_on.said
    for row in rows:
        result, records = read_run(place / row["run"])
        kept = next(one for one in records if one["epoch"] == result["selected_epoch"])
        name = "ema_top1" if result["weights"] == "ema" else "val_top1"
        assert row["val_top1"] == kept[name]
    best = max(rows, key=lambda row: row["val_top1"])
    winner, (result, _) = found["winner"], read_run(place / best["run"])
    assert (winner["trial"], winner["val_top1"]) == (best["trial"], best["val_top1"])
    assert winner["test_top1"] == result["top1"]
    assert winner["test_top1_ci95"] == result["top1_ci95"]
    folder = place / found["folder"]
    assert json.loads((folder / "sweep.json").read_text()) == found
    assert "deit-transfer sweep photos" in (folder / "sweep.md").read_text()


def test_no_test_figure_of_a_loser_is_shown(place: Path, gone_on: Ended) -> None:
    for row in gone_on.json["trials"]:
        assert row.keys() == ROW_KEYS
    fresh = run_program(*GRID, "--seed=5", folder=place)
    assert fresh.code == 0, fresh.err
    assert fresh.out.count("val images, ") == 2  # the line that ends each run
    assert "test images" not in fresh.out
    assert fresh.out.count("Its test top-1") == 1


def test_a_second_call_trains_nothing(place: Path, gone_on: Ended) -> None:
    never = Strike("deit_transfer.engine.loop:train_step")
    again = run_program(*GRID, folder=place, prepare=[never])
    assert again.code == 0, again.err
    assert "reused: 2 of 2 trials" in " ".join(again.out.split())
    assert len(list((place / "runs" / "sweeps").glob("*-scratch-deit_micro/sweep.json"))) == 1


def test_all_faults_are_said_before_anything_is_trained(place: Path) -> None:
    faulty = (
        "--grid=optim.peak=1",
        "--grid=augment.mixup=-1,0.5",
        "--grid=optim.weight_decay=0.1,7",
        "--space=optim.eps=1e-8..1e-6",
    )
    ended = run_program("sweep", "photos", *QUICK, *faulty, "--out=none", folder=place)
    assert ended.code == 2
    assert "4 faults" in ended.said
    for said in ("optim.peak: no such", "augment.mixup", "optim.weight_decay", "--space: a range"):
        assert said in ended.said
    assert "got -1" in ended.said
    assert "got 7" in ended.said
    assert not (place / "none").exists()


def test_a_network_that_cannot_be_built_is_found_before_the_others_are_trained(
    photos: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="name=deit_mirco") as caught:
        run_grid(photos, tmp_path / "runs", ["model.name=deit_micro,deit_mirco"])
    assert len(caught.value.faults) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"data.select": "test"}, "never on test"),
        ({"data.val_fraction": 0.0, "data.select": "last"}, "holds none out"),
    ],
)
def test_a_sweep_without_validation_images_is_refused(
    photos: str, tmp_path: Path, overrides: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run_grid(photos, tmp_path / "runs", ["optim.peak_lr=0.1"], **overrides)
    assert not (tmp_path / "runs").exists()


def run_grid(
    photos: str, out: Path, grids: list[str], trials: int | None = None, **overrides: Any
) -> dict[str, Any]:
    settings = SweepSettings(
        mode="scratch",
        grids=grids if trials is None else [],
        ranges=grids if trials is not None else [],
        trials=trials,
        overrides={k: v for k, v in SMALL.items() if k not in " ".join(grids)} | overrides,
    )
    return sweep(photos, settings, out=out)


def rate(recipe: Recipe) -> float:
    return recipe.optim.peak_lr


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    result = json.loads((folder / "result.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return result, [json.loads(line) for line in lines]


def test_the_winner_is_best_on_validation_whatever_test_says(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the better on validation, the worse on test
    rule = ByRule(lambda recipe, epoch: 100 * rate(recipe), lambda r: round(30 - 30 * rate(r)))
    monkeypatch.setattr(searching, "train_or_reuse", rule)
    found = run_grid(photos, tmp_path / "runs", ["optim.peak_lr=0.2,0.9,0.5"])
    assert found["winner"]["settings"] == {"optim.peak_lr": 0.9}
    assert found["winner"]["test_top1"] == pytest.approx(100 * 3 / 30)
    assert found["num_val_images"] == 12
    # where the winner stands first or last changes nothing, nor what is in the losers' results
    for row in found["trials"]:
        if row["trial"] != 2:
            result = json.loads((Path(row["run"]) / "result.json").read_text())
            assert f"{result['top1']:.3f}" not in json.dumps(found)


def test_a_trial_that_fails_is_a_row_with_its_reason(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def top1(recipe: Recipe, epoch: int) -> float:
        if rate(recipe) == 2.0 and epoch == 3:
            raise DivergedError("step 7 is not finite")
        if rate(recipe) == 3.0:
            raise ResourceError("out of memory at step 0")
        return 40.0 + epoch

    monkeypatch.setattr(searching, "train_or_reuse", ByRule(top1))
    found = run_grid(photos, tmp_path / "runs", ["optim.peak_lr=3.0,2.0,0.1"])
    assert [row["state"] for row in found["trials"]] == ["failed", "diverged", "done"]
    assert [row["reason"] for row in found["trials"]] == [
        "out of memory at step 0",
        "step 7 is not finite",
        "",
    ]
    assert [row["val_top1"] for row in found["trials"]] == [None, 42.0, 46.0]
    assert found["winner"]["trial"] == 3
    # an error that would end every trial alike ends the sweep
    broken = ByRule(lambda recipe, epoch: (_ for _ in ()).throw(DataError("no images")))
    monkeypatch.setattr(searching, "train_or_reuse", broken)
    with pytest.raises(DataError, match="no images"):
        run_grid(photos, tmp_path / "runs", ["optim.peak_lr=0.3"])


def test_optuna_gives_up_on_hopeless_trials_and_goes_on_after_a_kill(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, killed_in = ["optim.peak_lr=1e-3..1.0:log"], [7]

    def top1(recipe: Recipe, epoch: int) -> float:
        if len(rule.trained) == killed_in[0]:
            raise KeyboardInterrupt
        return 10 * epoch * rate(recipe)

    rule = ByRule(top1)
    monkeypatch.setattr(searching, "train_or_reuse", rule)
    with pytest.raises(KeyboardInterrupt):
        run_grid(photos, tmp_path / "cut", space, trials=9)
    killed_in[0] = 0
    cut = run_grid(photos, tmp_path / "cut", space, trials=9)
    rule.trained.clear()
    whole = run_grid(photos, tmp_path / "whole", space, trials=9)

    told = [(r["settings"], r["state"], r["val_top1"], r["epoch"]) for r in whole["trials"]]
    assert [(r["settings"], r["state"], r["val_top1"], r["epoch"]) for r in cut["trials"]] == told
    assert [row["reused"] for row in cut["trials"]] == [True] * 6 + [False] * 3
    assert [row["trial"] for row in cut["trials"]] == list(range(1, 10))
    pruned = [row for row in whole["trials"] if row["state"] == "pruned"]
    assert pruned
    for row in pruned:
        assert 2 <= row["epoch"] < 6  # not in the first third, not after the last epoch
        # worse than half of those before it, by the same rule
        before = [r["settings"]["optim.peak_lr"] for r in whole["trials"][: row["trial"] - 1]]
        assert sum(row["settings"]["optim.peak_lr"] < other for other in before) >= len(before) / 2
    assert whole["winner"]["settings"]["optim.peak_lr"] == max(
        row["settings"]["optim.peak_lr"] for row in whole["trials"]
    )
    # more trials of the same search go on in the same folder
    more = run_grid(photos, tmp_path / "whole", space, trials=10)
    assert more["folder"] == whole["folder"]
    assert more["trials"][:9] == [{**row, "reused": True} for row in whole["trials"]]


def test_values_that_contradict_each_other_only_together_are_a_row(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "train_or_reuse", ByRule(lambda recipe, epoch: 50.0))
    # each end is fine with each end; only a draw between them can be refused
    monkeypatch.setattr(
        "deit_transfer.recipe.loader.cross_faults",
        lambda recipe: ["optim.peak_lr: not between"] if 0.1 < rate(recipe) < 0.2 else [],
    )
    found = run_grid(photos, tmp_path / "runs", ["optim.peak_lr=0.1..0.2"], trials=2)
    assert [row["state"] for row in found["trials"]] == ["refused", "refused"]
    assert found["trials"][0]["reason"] == "optim.peak_lr: not between"
    assert found["winner"] is None


def test_recipes_are_compared_with_the_default_one_and_with_the_paper(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        searching,
        "train_or_reuse",
        ByRule(lambda recipe, epoch: 75.0 if recipe.augment.mixup else 50.0),
    )
    told = sweep_recipes(
        photos,
        recipe_names=["ablation/no_mixup*", "ablation/d*"],
        out=tmp_path / "runs",
        overrides=SMALL,
    )
    rows = {row["recipe"]: row for row in told["trials"]}
    assert list(rows) == ["default", "no_mixup", "no_mixup_no_cutmix", "dropout"]
    assert rows["no_mixup"]["delta"] == -25.0
    low, high = rows["no_mixup"]["delta_ci95"]
    assert low < -25 < high
    assert rows["default"]["delta"] is None
    assert rows["dropout"]["delta"] == 0
    assert [rows[name]["paper"] for name in ("default", "no_mixup")] == [[81.8, 83.1], [78.7, 79.8]]
    # those recipes select on test as the paper does, with nothing held out; a sweep does not
    assert "data.select = val and data.val_fraction = 0.1" in told["labels"][0]
    assert told["counts"]["val"] == 12


def test_the_recipes_of_table_7_are_read_as_they_state_it() -> None:
    stated = {
        name.removeprefix("ablation/"): searching.paper_of(load_recipe(name))
        for name in list_recipes()
        if name.startswith("ablation/")
    }
    assert len(stated) == 13
    assert None not in stated.values()
    assert stated["default"] == [81.8, 83.1]
    assert stated["no_erasing"] == [4.3, 0.1]
    assert stated["ema"] == [81.9, 83.1]
    assert searching.paper_of(load_recipe("pretrain/deit_small")) is None


def test_recipes_of_another_mode_have_no_difference(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "train_or_reuse", ByRule(lambda recipe, epoch: 50.0))
    told = sweep_recipes(
        photos,
        recipe_names=["scratch/folder", "pretrain/folder"],
        out=tmp_path / "runs",
        overrides=SMALL | {"data.val_fraction": 0.1},
    )
    assert [row["delta"] for row in told["trials"]] == [None, None]
    assert [row["recipe"] for row in told["trials"]] == ["scratch/folder", "pretrain/folder"]
    assert [row["paper"] for row in told["trials"]] == [None, None]


def test_a_name_that_holds_something_else_is_refused(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "train_or_reuse", ByRule(lambda recipe, epoch: 50.0))
    one, other = (
        SweepSettings(mode="scratch", grids=[f"optim.peak_lr={rate}"], overrides=SMALL)
        for rate in (0.1, 0.2)
    )
    first = sweep(photos, one, out=tmp_path, name="it")
    assert Path(first["folder"]) == tmp_path / "it"
    assert sweep(photos, one, out=tmp_path, name="it")["trials"][0]["reused"]
    with pytest.raises(UsageError, match="is not this sweep"):
        sweep(photos, other, out=tmp_path, name="it", callbacks=NoCallbacks())
