"""`compare` on the command line: what it starts from, what that has seen, and where it writes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from program import QUICK, Ended, run_program

from deit_transfer.models.pretrained import PretrainedWeights, read_pretrained
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.training.data_splits import DataSplits, load_splits
from deit_transfer.training.label_overlap import label_overlap_notes

COMPARE = ("compare", "photos", *QUICK, "--arms=scratch,probe", "--from=runs/first", "--seeds=1")
KNOWN = "first was trained on photos: it has seen labels of these images"


@pytest.fixture(scope="module")
def compared(workplace: Path, finished: Ended) -> Ended:
    """What the comparison of scratch with the probe of a run on the same photos printed."""
    ended = run_program(*COMPARE, "--json", folder=workplace)
    assert ended.code == 0, ended.err
    return ended


def test_the_start_is_that_of_the_arm_that_has_one(workplace: Path, compared: Ended) -> None:
    assert compared.json["pretrained"] == "first"
    page = (workplace / compared.json["folder"] / "report.md").read_text()
    assert "pretrained weights of the fine-tuned arm: first" in page


def test_a_start_that_knows_the_labels_is_said_to(workplace: Path, compared: Ended) -> None:
    assert compared.json["labels"].count(KNOWN) == 1
    shown = run_program(*COMPARE, folder=workplace)
    assert shown.code == 0, shown.err
    assert KNOWN in " ".join(shown.out.split())


def test_the_same_comparison_is_written_where_it_lies(workplace: Path, compared: Ended) -> None:
    folder = workplace / compared.json["folder"]
    (folder / "report.md").write_text("an older page")
    again = run_program(*COMPARE, "--json", folder=workplace).json
    assert again["folder"] == compared.json["folder"]
    assert "an older page" not in (folder / "report.md").read_text()
    assert json.loads((folder / "comparison.json").read_text()) == again
    other = run_program(*COMPARE[:-1], "--seeds=2", "--json", folder=workplace).json
    assert other["folder"] != again["folder"]
    named = run_program(*COMPARE, "--name=theirs", "--json", folder=workplace).json
    assert named["folder"] == "runs/theirs"


def photos_called(names: dict[str, str], *, workplace: Path, place: Path) -> DataSplits:
    shutil.copytree(workplace / "photos", place)
    for old, new in names.items():
        for split in ("train", "test"):
            (place / split / old).rename(place / split / new)
    return load_splits(load_recipe("finetune/folder", overrides={"data.dataset": str(place)}).data)


def test_only_a_start_of_these_classes_knows_them(
    workplace: Path, finished: Ended, tmp_path: Path
) -> None:
    run = str(workplace / "runs" / "first")
    weights = read_pretrained(run, model_name="deit_micro")
    same = photos_called({}, workplace=workplace, place=tmp_path / "photos")
    assert label_overlap_notes(run, weights, same) == [KNOWN]
    names = {"cat": "ant", "dog": "bee", "owl": "fly"}
    others = photos_called(names, workplace=workplace, place=tmp_path / "other" / "photos")
    assert label_overlap_notes(run, weights, others) == []
    elsewhere = photos_called({}, workplace=workplace, place=tmp_path / "birds")
    assert label_overlap_notes(run, weights, elsewhere) == []


def test_imagenets_weights_know_imagenets_classes(workplace: Path, tmp_path: Path) -> None:
    rows = read_pretrained("none", model_name="deit_micro")
    imagenet = PretrainedWeights({"head.weight": torch.ones(1000, 4)}, "the published weights")
    synsets = {"cat": "n01440764", "dog": "n01443537", "owl": "n01484850"}
    fish = photos_called(synsets, workplace=workplace, place=tmp_path / "fish")
    (note,) = label_overlap_notes("imagenet", imagenet, fish)
    assert "the published weights was trained on ImageNet, whose classes these are" in note
    assert label_overlap_notes("none", rows, fish) == []
    ten = PretrainedWeights({"head.weight": torch.ones(10, 4)}, "the file ten.pth")
    assert label_overlap_notes("ten.pth", ten, fish) == []
    photos = photos_called({}, workplace=workplace, place=tmp_path / "photos")
    assert label_overlap_notes("imagenet", imagenet, photos) == []
