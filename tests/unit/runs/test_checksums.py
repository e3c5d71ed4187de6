"""A run's file that is not as it was written is named, and harms no other run."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fake_runs import random_answers

from deit_transfer.errors import DataError, ResourceError
from deit_transfer.recipe.loader import dump_recipe, load_recipe
from deit_transfer.runs import checksums
from deit_transfer.runs.checksums import CHECKSUMS_FILE, read_checked, write_checked
from deit_transfer.runs.folder import (
    CLASSES_FILE,
    DATA_FILE,
    KEY_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    STATUS_FILE,
    RunFolder,
    create_run_folder,
    open_run,
)
from deit_transfer.runs.key import find_by_key
from deit_transfer.runs.listing import describe_runs
from deit_transfer.runs.predictions import read_predictions, write_predictions

TEXTS = (RECIPE_FILE, RESULT_FILE, METRICS_FILE, KEY_FILE, STATUS_FILE, CLASSES_FILE, DATA_FILE)


def finished_run(out: Path, name: str) -> RunFolder:
    folder = create_run_folder(out, name)
    folder.write_json(KEY_FILE, {"key": name})
    folder.write_text(RECIPE_FILE, dump_recipe(load_recipe("scratch/folder")))
    folder.write_json(CLASSES_FILE, {"class_names": ["cat", "owl"]})
    folder.write_json(DATA_FILE, {"fingerprint": "f" * 64, "counts": {"train": 8}})
    folder.write_metrics([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    folder.write_json(RESULT_FILE, {"mode": "scratch", "top1": 87.5, "seed": 0})
    folder.set_status("done")
    write_predictions(folder.path / PREDICTIONS_FILE, random_answers(12, seed=0))
    return folder


def read_all(folder: RunFolder) -> list[object]:
    opened = open_run(folder.path)
    values = [opened.read_json(name) for name in TEXTS if name.endswith(".json")]
    return [*values, opened.metrics(), (opened.path / RECIPE_FILE).read_text()]


def flip(path: Path, place: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*TEXTS, CHECKSUMS_FILE])
@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_a_flipped_bit_is_found_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bit: int, place: float
) -> None:
    monkeypatch.setattr(checksums, "PAUSE_S", 0)
    folder = finished_run(tmp_path, "run")
    whole = read_all(folder)
    flip(folder.path / name, place, bit)
    problem, found = "", whole
    try:
        found = read_all(folder)
    except DataError as error:
        problem = error.message
    # unharmed where it is a blank, or the digest of what was there before
    assert "is damaged" in problem or found == whole


def test_a_damaged_run_is_listed_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "PAUSE_S", 0)
    finished_run(tmp_path, "sound")
    damaged = finished_run(tmp_path, "damaged")
    for name in (RESULT_FILE, KEY_FILE):
        flip(damaged.path / name, 0.5, 1)
    rows = {row["run"]: row for row in describe_runs(tmp_path)}
    assert rows["sound"]["state"] == "done"
    assert rows["sound"]["top1"] == 87.5
    assert rows["damaged"]["state"] == "damaged"
    assert "result.json is damaged" in rows["damaged"]["problem"]
    found = find_by_key(tmp_path, "sound", finished=True)
    assert found is not None
    assert found.path.name == "sound"
    assert find_by_key(tmp_path, "damaged", finished=True) is None


def test_damaged_predictions_are_one_sentence(tmp_path: Path) -> None:
    path = finished_run(tmp_path, "run").path / PREDICTIONS_FILE
    sound, content = read_predictions(path), path.read_bytes()
    for place in np.linspace(0, 1, 23):
        flip(path, float(place), 4)
        problem, found = "", sound
        try:
            found = read_predictions(path)
        except DataError as error:
            problem = error.message
        assert "cannot be read" in problem or (found.decisions() == sound.decisions()).all()
        path.write_bytes(content)


def test_a_process_killed_between_checksum_and_file_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_checked(path, "old")
    written = checksums.write_text_atomic

    def killed_before_the_file(place: Path, text: str) -> None:
        if place == path:
            raise KeyboardInterrupt
        written(place, text)

    monkeypatch.setattr(checksums, "write_text_atomic", killed_before_the_file)
    with pytest.raises(KeyboardInterrupt):
        write_checked(path, "new")
    assert read_checked(path) == "old"


def test_files_from_before_there_were_checksums_are_read(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"top1": 50.0}))
    assert RunFolder(tmp_path).read_json("result.json") == {"top1": 50.0}
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is damaged"):
        RunFolder(tmp_path).read_json("result.json")


@pytest.mark.parametrize("number", [5, 30])  # an input/output error, a read-only file system
def test_a_write_that_fails_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = finished_run(tmp_path, "run")

    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceError, match=rf"cannot write .*: {os.strerror(number)}"):
        folder.write_json(RESULT_FILE, {"top1": 0.0})
    monkeypatch.undo()
    assert folder.read_json(RESULT_FILE)["top1"] == 87.5
    assert [path.name for path in folder.path.iterdir() if path.name.endswith(".tmp")] == []
