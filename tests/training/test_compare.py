"""Compare arms end to end, and see the demo's three acts at a much reduced length."""

import json
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

import numpy as np
import pytest
import tomli_w
from photos import write_photos
from PIL import Image
from program import QUICK, Ended, run_program
from safetensors.numpy import load_file
from traps import Strike

from deit_transfer.errors import DataError
from deit_transfer.experiments.compare import ComparisonSettings, compare
from deit_transfer.recipe.loader import load_recipe, recipes_root
from deit_transfer.recipe.schema import Data
from deit_transfer.training.data_splits import load_splits

COMPARE = ("compare", "photos", *QUICK, "--from=runs/base")
ARM_KEYS = {
    "arm", "top1_mean", "top1_ci95", "top5_mean", "mean_per_class_mean", "loss_mean",
    "images_seen_mean", "seconds_mean", "images_per_second_mean", "n", "runs", "reused",
    "paper_top1", "paper_label", "ci_method",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and a run on other classes to start from, runs/base."""
    folder = tmp_path_factory.mktemp("compare")
    write_photos(folder / "photos", size=16)
    write_photos(folder / "other", classes=("ant", "bee"), size=16)
    ended = run_program("scratch", "other", *QUICK, "--name=base", "--quiet", folder=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="module")
def first(place: Path) -> Ended:
    """The first comparison, of two seeds, which was killed in its last arm and gone on with."""
    command = (*COMPARE, "--seeds=2", "--json")
    in_the_last_arm = Strike("deit_transfer.training.trainer:Trainer.after_step", 20)
    assert run_program(*command, folder=place, prepare=[in_the_last_arm]).code == -SIGKILL
    return run_program(*command, folder=place)


def runs_of(place: Path) -> set[str]:
    return {path.parent.name for path in (place / "runs" / "photos").rglob("recipe.toml")}


def test_both_arms_are_trained_with_every_seed_and_told(place: Path, first: Ended) -> None:
    assert first.code == 0, first.err
    told = first.json
    assert [arm["arm"] for arm in told["arms"]] == ["scratch", "finetune", "soup"]
    for arm in told["arms"][:2]:
        assert arm.keys() >= ARM_KEYS
        assert arm["n"] == 2
        assert [run["seed"] for run in arm["runs"]] == [0, 1]
        assert arm["top1_mean"] == sum(run["top1"] for run in arm["runs"]) / 2
        low, high = arm["top1_ci95"]
        assert low <= arm["top1_mean"] <= high
    assert told["delta"] == pytest.approx(
        told["arms"][1]["top1_mean"] - told["arms"][0]["top1_mean"]
    )
    assert told["delta_ci95"][0] <= told["delta"] <= told["delta_ci95"][1]
    assert 0 <= told["p_value"] <= 1
    assert runs_of(place) == {f"{arm}-deit_micro-seed{n}" for arm in ("scratch", "finetune")
                              for n in (0, 1)} | {"soup-deit_micro-seeds0-1"}  # fmt: skip


def test_what_was_finished_before_the_kill_was_not_trained_again(first: Ended) -> None:
    assert [arm["reused"] for arm in first.json["arms"]] == [2, 1, 0]
    assert "resumed at step" not in first.out


def test_a_comparison_leaves_a_figure_and_a_report(place: Path, first: Ended) -> None:
    folder = place / first.json["folder"]
    with Image.open(folder / "curves.png") as figure:
        assert min(figure.size) > 400
    report = (folder / "report.md").read_text()
    for expected in ("scratch", "finetune", "curves.png", "deit-transfer compare photos"):
        assert expected in report
    assert json.loads((folder / "comparison.json").read_text()) == first.json


def test_a_second_call_trains_nothing_and_says_so(place: Path, first: Ended) -> None:
    before = runs_of(place)
    never = Strike("deit_transfer.engine.loop:train_step")
    again = run_program(*COMPARE, "--seeds=2", folder=place, prepare=[never])
    assert again.code == 0, again.err
    assert again.out.count("reused: runs/photos/") == 5
    assert runs_of(place) == before
    assert "finetune - scratch" in again.out


def test_equal_images_gives_both_arms_the_fine_tuned_ones(place: Path, first: Ended) -> None:
    told = run_program(*COMPARE, "--budget=equal-images", "--epochs=1", "--json", folder=place).json
    assert {arm["images_seen_mean"] for arm in told["arms"]} == {22}
    assert told["budget"] == "equal-images"


def test_equal_images_holds_for_recipes_of_other_lengths_and_batches(
    place: Path, first: Ended
) -> None:
    schedules = {"scratch": "epochs = 7\nbatch_size = 6", "finetune": "epochs = 3\nbatch_size = 8"}
    for arm, schedule in schedules.items():
        own = f'extends = "{arm}/folder"\nmode = "{arm}"\n[schedule]\n{schedule}\n'
        (place / f"{arm}.toml").write_text(own)
    told = compare(
        str(place / "photos"),
        ComparisonSettings(
            start=str(place / "runs" / "base"),
            seeds=1,
            budget="equal-images",
            recipe_names={arm: str(place / f"{arm}.toml") for arm in schedules},
            overrides=OVERRIDES,
        ),
        out=place / "equal",
    )
    assert [arm["images_seen_mean"] for arm in told["arms"]] == [66, 66]
    assert [arm["runs"][0]["epochs"] for arm in told["arms"]] == [3, 3]


OVERRIDES: dict[str, Any] = {
    "model.name": "deit_micro",
    "model.resolution": 16,
    "schedule.min_steps": 0,
    "schedule.warmup_epochs": 0.5,
    "optim.floor_lr": 0,
    "optim.warmup_lr": 0,
    "run.attention": "fused",
    "run.device": "cpu",
    "data.select": "val",
}


def test_arms_that_would_see_other_data_are_refused(place: Path) -> None:
    other = place / "other-split.toml"
    other.write_text('extends = "scratch/folder"\nmode = "scratch"\n[data]\nsplit_seed = 5\n')
    with pytest.raises(DataError, match="would not see the same data") as caught:
        compare(
            str(place / "photos"),
            ComparisonSettings(
                start=str(place / "runs" / "base"),
                seeds=1,
                recipe_names={"scratch": str(other)},
                overrides=OVERRIDES,
            ),
            out=place / "refused",
        )
    assert "[data]" in caught.value.hint
    assert not (place / "refused").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--from=runs/bse",), 4, "nothing at runs/bse"),
        (("--name=base",), 2, "runs/base exists already"),
        (("--recipe=scratch/folder",), 2, "each arm with its own recipe"),
        (("--arms=scratch,finetun",), 2, "no arm and no recipe 'finetun'. Did you mean finetune"),
        (("--arms=scratch,scratch",), 2, "scratch is given twice"),
        (("--arms=scratch,",), 2, "--arms 'scratch,' has an empty part"),
        (("--arms=scratch,distilled",), 2, "distilled needs a teacher"),
        (("--arms=scratch,finetune", "--teacher=runs/base"), 2, "no arm learns from the teacher"),
        (("--fractions=0,1",), 2, "shares above 0 and up to 1, not 0"),
        (("--fractions=1,one",), 2, "not a list of numbers"),
        (("--fractions=,1",), 2, "--fractions ',1' has an empty part"),
        (("--fractions=0.5,0.5",), 2, "0.5 twice"),
        (("--fractions=0.5,1", "--fraction=0.5"), 2, "contradict each other"),
        (("--fractions=0.5,0.51",), 2, "both 12 labeled images"),
        (("--fractions=0.01,1",), 3, "cannot keep 0 of the 24"),
        (("photos",), 2, "photos is given twice"),
        (("--budget=equal-images", "--time-budget=1"), 2, "contradict each other"),
        (("--seeds=0",), 2, "--seeds"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_trained(
    place: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = run_program(*COMPARE, *arguments, "--seed=77", folder=place)
    assert ended.code == code
    assert said in ended.said
    assert "Traceback" not in ended.err
    assert not list((place / "runs").rglob("*seed77*"))


def test_the_soup_is_the_average_of_its_runs_and_is_a_run(place: Path, first: Ended) -> None:
    soup = first.json["arms"][2]
    [run] = soup["runs"]
    assert (soup["soup_of"], soup["n"], run["seed"]) == ("finetune", 1, None)
    members = [run["run"] for run in first.json["arms"][1]["runs"]]
    averaged = load_file(place / run["run"] / "model.safetensors")
    weights = [load_file(place / member / "model.safetensors") for member in members]
    for key, value in averaged.items():
        expected = np.mean([one[key].astype(np.float64) for one in weights], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-8)
    again = run_program("evaluate", run["run"], "--json", folder=place).json
    assert again["top1"] == pytest.approx(run["top1"])
    rates = run_program("disagree", run["run"], members[0], "--json", folder=place).json
    assert rates["matrix"][0][1] == pytest.approx(1 - run["top1"] / 100)
    against = first.json["differences"][-1]
    assert (against["arm"], against["baseline"]) == ("soup", "finetune")
    assert against["delta"] == pytest.approx(soup["top1_mean"] - first.json["arms"][1]["top1_mean"])
    assert first.json["differences"][0]["arm"] == "finetune"


@pytest.fixture(scope="module")
def sized(place: Path, first: Ended) -> Ended:
    """Four arms, one of them a recipe, at two shares of the labels."""
    arms = "--arms=scratch,finetune,probe,paper/finetune/cifar10"
    return run_program(
        *COMPARE, arms, "--fractions=0.5,1", "--set=augment.repeats=1", "--json",
        folder=place, environment={"XDG_CACHE_HOME": str(place / "cache")},
    )  # fmt: skip


def test_every_arm_is_there_at_every_share_of_the_labels(sized: Ended, place: Path) -> None:
    assert sized.code == 0, sized.err
    arms = ["scratch", "finetune", "probe", "paper/finetune/cifar10"]
    told = sized.json
    assert [arm["arm"] for arm in told["arms"]] == arms
    points = told["label_efficiency"]["points"]
    assert [(point["fraction"], point["labels"]) for point in points] == [(0.5, 12), (1.0, 24)]
    for point in points:
        assert [arm["arm"] for arm in point["arms"]] == arms
        assert point["counts"]["train"] + point["counts"]["val"] == point["labels"]
    # what the largest share says is what the comparison says
    assert points[-1]["arms"] == told["arms"]
    rates = told["label_efficiency"]["exchange"]
    assert [(rate["arm"], rate["labels"]) for rate in rates] == [
        (arm, labels) for arm in arms[1:] for labels in (12, 24)
    ]
    assert len(told["label_efficiency"]["sentences"]) == 3
    assert [run["seed"] for run in told["arms"][2]["runs"]] == [None]


def test_smaller_shares_lie_within_larger_ones(sized: Ended, place: Path) -> None:
    small, large = (
        load_splits(
            Data(dataset=str(place / "photos"), fraction=fraction, val_fraction=0.0, select="last")
        )
        for fraction in (0.5, None)
    )
    assert set(small.train.ids) < set(large.train.ids)
    assert len(small.train) == 12


def test_a_recipe_as_an_arm_is_put_on_the_splits_of_the_others(sized: Ended) -> None:
    assert any(
        "paper/finetune/cifar10: the splits are the comparison's" in label
        for label in sized.json["labels"]
    )


def test_all_shares_leave_one_table_two_figures_and_a_page(sized: Ended, place: Path) -> None:
    folder = place / sized.json["folder"]
    for name in ("curves.png", "label-efficiency.png"):
        with Image.open(folder / name) as figure:
            assert min(figure.size) > 400
    page = (folder / "report.md").read_text()
    assert "## What labels are worth" in page
    assert "label-efficiency.png" in page


def test_shares_of_all_labels_find_the_runs_of_before(sized: Ended, place: Path) -> None:
    never = Strike("deit_transfer.engine.loop:train_step")
    again = run_program(*COMPARE, "--arms=probe,finetune,scratch", "--set=augment.repeats=1",
                        folder=place, prepare=[never])  # fmt: skip
    assert again.code == 0, again.err
    assert again.out.count("reused: ") == 3
    assert max(map(len, again.out.splitlines())) <= 80
    # scratch is the baseline wherever it stands; the probe is what fine-tuning has to beat
    compared = [line.split(":")[0] for line in again.out.splitlines() if " - " in line[:30]]
    assert compared == ["finetune - scratch", "probe - scratch", "finetune - probe"]


def test_several_datasets_give_one_table_and_one_that_fails_loses_none(
    place: Path, first: Ended
) -> None:
    (place / "hollow").mkdir()
    command = ("compare", "photos", "hollow", "other", *QUICK, "--from=runs/base")
    told = run_program(*command, "--json", folder=place)
    assert told.code == 3
    table = told.json
    assert table["datasets"] == ["photos", "other"]
    assert [(row["arm"], row["whose"]) for row in table["rows"]] == [
        ("scratch", "ours"),
        ("finetune", "ours"),
    ]
    for row in table["rows"]:
        for name, one in zip(table["datasets"], table["comparisons"], strict=True):
            arm = next(arm for arm in one["arms"] if arm["arm"] == row["arm"])
            assert row["cells"][name] == arm
            assert (place / one["folder"] / "comparison.json").is_file()
    [failure] = table["failed"]
    assert (failure["dataset"], failure["exit_code"]) == ("hollow", 3)
    assert "others go on" in told.said
    shown = run_program(*command, folder=place)
    assert shown.code == 3
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "hollow failed" in shown.out
    assert (place / table["folder"] / "report.md").read_text().count("| scratch |") == 1


@dataclass(frozen=True)
class ShortRecipes:
    """Look for recipes in another folder."""

    folder: str

    def __call__(self) -> None:
        from deit_transfer.recipe import loader

        loader.recipes_root = lambda: Path(self.folder)


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ShortRecipes]:
    """A folder to run the demo in, and its recipes cut to a few steps."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(recipes_root(), folder / "recipes")
    for recipe in (folder / "recipes" / "demo").glob("*.toml"):
        values = tomllib.loads(recipe.read_text())
        values["schedule"] = {"epochs": 2, "max_steps": 8}
        values["model"] = {"resolution": 16}
        recipe.write_text(tomli_w.dumps(values))
    return folder, ShortRecipes(str(folder / "recipes"))


def test_the_demo_pretrains_compares_and_names_what_to_type_next(
    short_demo: tuple[Path, ShortRecipes],
) -> None:
    folder, short = short_demo
    shown = run_program("demo", "--seeds=1", folder=folder, prepare=[short])
    assert shown.code == 0, shown.err
    for expected in (
        "First act",
        "Second act",
        "finetune - scratch",
        "a tiny DeiT",
        "not on ImageNet",
        "deit-transfer data check",
        "deit-transfer compare",
    ):
        assert expected in shown.out
    told = run_program("demo", "--seeds=1", "--json", folder=folder, prepare=[short])
    assert [arm["reused"] for arm in told.json["arms"]] == [1, 1]
    assert told.json["arms"][1]["arm"] == "finetune"
    assert told.json["pretrained"] == "the digits 0-4"


def test_the_demo_is_of_disjoint_digits_and_equal_data() -> None:
    pretraining, scratch, finetune = (
        load_recipe(f"demo/{name}") for name in ("pretrain", "scratch", "finetune")
    )
    assert not set(pretraining.data.classes) & set(finetune.data.classes)
    assert scratch.data == finetune.data
