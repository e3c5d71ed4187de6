"""Accuracy by the length of training: every length a run of its own, with and without a teacher."""

import json
from pathlib import Path
from typing import Any

import pytest
from photos import write_photos
from PIL import Image
from program import QUICK, run_program
from trained_by_rule import ByRule

from deit_transfer.errors import RecipeError, UsageError
from deit_transfer.experiments import epochs as lengths
from deit_transfer.experiments.epochs import epochs
from deit_transfer.recipe.schema import Recipe

SMALL: dict[str, Any] = {
    "model.name": "deit_micro",
    "model.resolution": 16,
    "schedule.batch_size": 8,
    "optim.floor_lr": 0,
    "optim.warmup_lr": 0,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("epochs")
    return str(write_photos(folder / "photos", counts={"train": 10, "test": 10}, size=16))


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> ByRule:
    """30 test images: a plain run gets one right per epoch and seed, a distilled one more."""

    def right(recipe: Recipe) -> int:
        more = 5 * recipe.schedule.epochs if recipe.distill.teacher is not None else 0
        return recipe.schedule.epochs + recipe.run.seed**2 + more

    stand_in = ByRule(lambda recipe, epoch: 50.0, right)
    monkeypatch.setattr(lengths, "train_or_reuse", stand_in)
    return stand_in


def test_every_length_is_trained_with_every_seed_with_and_without_the_teacher(
    photos: str, tmp_path: Path, rule: ByRule
) -> None:
    taught = {"distill.teacher": "regnety_160", "distill.kind": "hard"}
    found = epochs(photos, lengths=[4, 2], seeds=2, out=tmp_path / "runs", overrides=SMALL | taught)
    trained = [
        (r.schedule.epochs, r.run.seed, r.model.name, r.distill.teacher) for r in rule.trained
    ]
    plain, distilled = ("deit_micro", None), ("deit_micro_distilled", "regnety_160")
    assert sorted(trained, key=str) == sorted(
        [(n, seed, *arm) for n in (2, 4) for seed in (0, 1) for arm in (plain, distilled)], key=str
    )
    assert [one[0] for one in trained] == [2] * 4 + [4] * 4  # the shortest first
    assert all(r.schedule.warmup_epochs < r.schedule.epochs for r in rule.trained)

    assert found["lengths"] == [2, 4]
    assert [arm["arm"] for arm in found["points"][0]["arms"]] == ["plain", "distilled"]
    means = [[arm["top1_mean"] for arm in point["arms"]] for point in found["points"]]
    thirtieth = 100 / 30
    assert means[0] == pytest.approx([2.5 * thirtieth, 12.5 * thirtieth])
    assert means[1] == pytest.approx([4.5 * thirtieth, 24.5 * thirtieth])
    assert found["points"][1]["differences"][0]["delta"] == pytest.approx(20 * thirtieth)
    gains = {one["arm"]: one for one in found["gains"]}
    assert (gains["plain"]["from"], gains["plain"]["to"]) == (2, 4)
    assert gains["plain"]["delta"] == pytest.approx(2 * thirtieth)
    assert gains["distilled"]["delta"] == pytest.approx(12 * thirtieth)
    assert found["teacher"] == "regnety_160"
    assert found["teacher_top1"] == 75.0

    folder = Path(found["folder"])
    assert json.loads((folder / "epochs.json").read_text()) == found
    with Image.open(folder / "epochs.png") as figure:
        assert min(figure.size) > 400
    page = (folder / "epochs.md").read_text()
    for expected in ("distilled - plain", "epochs.png", "DeiT-B", "81.8 at 300", "84.2 at 1000"):
        assert expected in page


def test_without_a_teacher_there_is_one_arm_and_finished_runs_are_reused(
    photos: str, tmp_path: Path, rule: ByRule
) -> None:
    first = epochs(photos, lengths=[2], seeds=1, out=tmp_path, overrides=SMALL)
    assert [arm["arm"] for arm in first["points"][0]["arms"]] == ["plain"]
    assert first["gains"] == []
    assert first["mode"] == "scratch"
    second = epochs(photos, lengths=[2, 3], seeds=1, out=tmp_path, overrides=SMALL)
    assert len(rule.trained) == 2
    assert [point["arms"][0]["reused"] for point in second["points"]] == [1, 0]
    assert second["folder"] != first["folder"]
    again = epochs(photos, lengths=[2, 3], seeds=1, out=tmp_path, overrides=SMALL)
    assert again["folder"] == second["folder"]
    assert json.loads((Path(again["folder"]) / "epochs.json").read_text()) == again
    assert second["gains"][0]["test_method"].startswith("McNemar")


def test_a_start_makes_it_fine_tuning(photos: str, tmp_path: Path, rule: ByRule) -> None:
    from deit_transfer.models.classifier import build_classifier
    from deit_transfer.models.pretrained import write_model_files

    start = tmp_path / "start"
    start.mkdir()
    network = build_classifier(name="deit_micro", num_classes=2, resolution=16)
    write_model_files(start, network, class_names=("ant", "bee"), crop_pct=0.9)
    found = epochs(photos, lengths=[2], seeds=1, out=tmp_path, start=str(start), overrides=SMALL)
    assert found["mode"] == "finetune"
    assert rule.trained[0].model.pretrained == str(start)


def test_all_lengths_that_cannot_be_trained_are_named(
    photos: str, tmp_path: Path, rule: ByRule
) -> None:
    wrong = SMALL | {"schedule.warmup_epochs": 3.0}
    with pytest.raises(RecipeError) as caught:
        epochs(photos, lengths=[1, 2, 9], seeds=1, out=tmp_path / "runs", overrides=wrong)
    assert [fault.rpartition("(")[2] for fault in caught.value.faults] == [
        "1 epoch, plain)",
        "2 epochs, plain)",
    ]
    assert not (tmp_path / "runs").exists()
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        epochs(photos, lengths=[9], seeds=1, out=tmp_path, name="taken", overrides=SMALL)
    assert rule.trained == []


def test_the_command_trains_and_shows_the_table(photos: str, tmp_path: Path) -> None:
    quick = [flag for flag in QUICK if not flag.startswith(("--epochs", "--set=schedule"))]
    shown = run_program("epochs", photos, *quick, "--grid=1,2", folder=tmp_path)
    assert shown.code == 0, shown.err
    for expected in ("run 2 of 2: plain, 2 epochs", "plain, 1 to 2 epochs:", "Tables 3 and 5"):
        assert expected in " ".join(shown.out.split())
    assert max(map(len, shown.out.splitlines())) <= 80
    for arguments, said in (
        (("--grid=1,x,0",), "'x', '0' is none"),
        (("--grid=2,2",), "given twice"),
        (("--grid=1,,2",), "--grid '1,,2' has an empty part"),
        (("--grid=2", "--epochs=2"), "--grid gives all of them"),
    ):
        refused = run_program("epochs", photos, *quick, *arguments, folder=tmp_path)
        assert refused.code == 2
        assert said in refused.said
