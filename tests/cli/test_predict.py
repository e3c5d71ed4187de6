"""`predict` against the predictions that a run stored, and with files that are no images."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from photos import write_photos
from program import QUICK, Ended, run_program
from scipy.special import softmax

USAGE, DATA = 2, 3
RUN = "runs/first"


def told(folder: Path, *command: str) -> dict:
    ended = run_program("predict", *command, "--json", folder=folder)
    assert ended.code == 0, ended.err
    return ended.json


@pytest.fixture(scope="module")
def mixed(workplace: Path) -> Path:
    """A folder of three images at different depths, a text file, and two that cannot be read."""
    folder = workplace / "mixed"
    (folder / "deep" / "deeper").mkdir(parents=True)
    source = workplace / "photos" / "test"
    shutil.copy(source / "cat" / "000.png", folder / "a.png")
    shutil.copy(source / "dog" / "000.png", folder / "deep" / "b.png")
    shutil.copy(source / "owl" / "000.png", folder / "deep" / "deeper" / "c.png")
    whole = (source / "owl" / "001.png").read_bytes()
    (folder / "deep" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_text("<!DOCTYPE html>")
    (folder / "notes.txt").write_text("not an image")
    return workplace


def test_the_answers_are_those_of_the_test_split(workplace: Path, finished: Ended) -> None:
    result = told(workplace, RUN, "photos/test", "--top=2")
    with np.load(workplace / RUN / "predictions-test.npz") as stored:
        rows = dict(zip(stored["ids"], softmax(stored["class_logits"], axis=1), strict=True))
    names = ("cat", "dog", "owl")
    assert result["num_images"] == len(result["images"]) == len(rows) == 12
    for one in result["images"]:
        expected = rows[one["image"].removeprefix("photos/")]
        order = np.argsort(-expected)[:2]
        assert [given["class"] for given in one["classes"]] == [names[k] for k in order]
        assert [given["label"] for given in one["classes"]] == order.tolist()
        percents = [given["percent"] for given in one["classes"]]
        assert percents == pytest.approx((100 * expected[order]).tolist(), rel=1e-4)
    assert result["unreadable"] == []


def test_unreadable_images_are_listed_at_the_end_and_the_others_answered(
    mixed: Path, finished: Ended
) -> None:
    ended = run_program("predict", RUN, "mixed", folder=mixed)
    assert ended.code == DATA
    for name in ("a.png", "deep/b.png", "deep/deeper/c.png"):
        assert f"mixed/{name}" in ended.out
    assert "cut.png" not in ended.out
    assert "2 of 5 images could not be read" in ended.said
    assert "cut.png: the file is damaged" in ended.said
    assert "page.jpg: it is an HTML page" in ended.said
    assert "1 not images" in ended.out
    as_json = run_program("predict", RUN, "mixed", "--json", folder=mixed)
    assert as_json.code == DATA
    unreadable = {Path(one["image"]).name for one in json.loads(as_json.out)["unreadable"]}
    assert unreadable == {"cut.png", "page.jpg"}
    found = [given["classes"][0]["class"] for given in as_json.json["images"]]
    assert found == ["cat", "dog", "owl"]


def test_files_and_folders_are_each_answered_once(mixed: Path, finished: Ended) -> None:
    result = told(mixed, RUN, "mixed/deep/deeper", "mixed/a.png", "mixed/deep/deeper/c.png")
    images = [one["image"] for one in result["images"]]
    assert images == ["mixed/deep/deeper/c.png", "mixed/a.png"]
    assert all(len(one["classes"]) == 3 for one in result["images"])  # all there are


def test_a_csv_file_has_a_row_an_image_and_head(mixed: Path, finished: Ended) -> None:
    command = (RUN, "mixed/a.png", "mixed/deep/b.png", "--top=2")
    ended = run_program("predict", *command, "--csv=said.csv", folder=mixed)
    assert ended.code == 0, ended.err
    assert "|" not in ended.out
    with (mixed / "said.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    result = told(mixed, *command)
    for row, one in zip(rows, result["images"], strict=True):
        assert (row["image"], row["head"]) == (one["image"], "class")
        assert row["class1"] == one["classes"][0]["class"]
        assert float(row["percent2"]) == round(one["classes"][1]["percent"], 2)


def test_a_csv_file_replaces_only_its_like(mixed: Path, finished: Ended) -> None:
    command = ("predict", RUN, "mixed/a.png", "--csv=kept.csv")
    for text in ("image,width\nnot,ours\n", "my notes"):
        (mixed / "kept.csv").write_text(text)
        ended = run_program(*command, folder=mixed)
        assert ended.code == USAGE
        assert "kept.csv exists already, and is not a CSV file that predict wrote" in ended.said
        assert "Name another file with --csv" in ended.said
        assert ended.out == ""
        assert (mixed / "kept.csv").read_text() == text
    (mixed / "kept.csv").write_text("")  # as mktemp leaves it
    for top in (1, 2):
        assert run_program(*command, f"--top={top}", folder=mixed).code == 0
        assert f"class{top}" in (mixed / "kept.csv").read_text()
    assert run_program(*command[:-1], "--csv=mixed", folder=mixed).code == USAGE


def test_the_pace_is_of_the_images_that_were_answered(mixed: Path, finished: Ended) -> None:
    some = run_program("predict", RUN, "mixed", folder=mixed)
    assert "3 images in" in some.out
    assert "The others are classified" in some.said
    assert told_anyway(mixed, "mixed")["num_answered"] == 3
    none = run_program("predict", RUN, "mixed/page.jpg", folder=mixed)
    assert none.code == DATA
    assert none.out == "No image could be read.\n"
    assert "1 of 1 image could not be read" in none.said
    assert "answered" not in none.said
    found = told_anyway(mixed, "mixed/page.jpg")
    assert (found["num_images"], found["num_answered"], found["images_per_second"]) == (1, 0, 0)


def told_anyway(folder: Path, path: str) -> dict:
    return run_program("predict", RUN, path, "--json", folder=folder).json


def test_one_head_answers_once_and_as_class(workplace: Path, finished: Ended) -> None:
    result = told(workplace, RUN, "photos/test/cat/000.png", "--heads=joint,class")
    assert [one["head"] for one in result["images"]] == ["class"]


def test_synsets_are_told_in_words_and_heads_apart(tmp_path: Path) -> None:
    write_photos(tmp_path / "fish", classes=("n01440764", "n01443537"), size=16)
    train = ("scratch", "fish", *QUICK, "--model=deit_micro_distilled", "--epochs=1")
    assert run_program(*train, "--name=fish", "--quiet", folder=tmp_path).code == 0
    command = ("runs/fish", "fish/test/n01440764/000.png")
    result = told(tmp_path, *command, "--heads=class,distill,joint")
    by_head = {
        one["head"]: {given["class"]: given["percent"] for given in one["classes"]}
        for one in result["images"]
    }
    for name, percent in by_head["joint"].items():
        assert percent == pytest.approx((by_head["class"][name] + by_head["distill"][name]) / 2)
    names = {given["class"]: given["name"] for given in result["images"][0]["classes"]}
    assert names["n01440764"] == "tench, Tinca tinca"
    screen = run_program("predict", *command, folder=tmp_path).out
    assert "tench, Tinca tinca (n01440764)" in " ".join(screen.split())
    assert max(map(len, screen.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("nowhere", "photos"), USAGE, "unknown model 'nowhere'"),
        (("runs/nope", "photos"), DATA, "there is no run in runs/nope"),
        ((RUN, "photos/nothing.png"), DATA, "there is no photos/nothing.png"),
        ((RUN, "empty"), DATA, "there is no image in empty"),
        ((RUN, "photos", "--heads=distill"), USAGE, "no distillation head"),
        ((RUN, "photos", "--csv=no/such/folder.csv"), 6, "cannot write no/such/folder.csv"),
    ],
    ids=lambda value: "" if isinstance(value, int) else str(value)[-24:],
)
def test_what_cannot_be_answered_is_said(
    workplace: Path, finished: Ended, command: tuple[str, ...], code: int, said: str
) -> None:
    (workplace / "empty").mkdir(exist_ok=True)
    ended = run_program("predict", *command, folder=workplace)
    assert ended.code == code, ended
    assert said in ended.said
