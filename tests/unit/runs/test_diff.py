"""Two runs side by side: joined by image and class, never by place; refused where they differ."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_runs import random_answers, write_run
from rich.console import Console

from deit_transfer.analysis.statistics import mcnemar
from deit_transfer.errors import CheckpointError, DataError
from deit_transfer.report.run_diff import run_difference
from deit_transfer.runs.diff import compare_runs
from deit_transfer.runs.predictions import StoredPredictions

FOLDER = "scratch/folder"
PHOTOS = {"data.dataset": "photos", "model.name": "deit_micro"}


def right_by_id(answers: StoredPredictions) -> np.ndarray:
    """Return whether each image is answered rightly, in the order of the ids."""
    right = answers.class_logits.argmax(1) == answers.labels
    return right[np.argsort(answers.ids)]


def test_results_are_joined_by_image_and_class(tmp_path: Path) -> None:
    first, second = random_answers(60, seed=1), random_answers(60, seed=2)
    # the second run numbers owl, cat, dog 0, 1, 2
    order = [2, 0, 1]
    renumbered = replace(
        second,
        labels=np.argsort(order)[second.labels],
        class_logits=second.class_logits[:, order],
    )
    a = write_run(tmp_path / "a", FOLDER, settings=PHOTOS, answers=first)
    b = write_run(
        tmp_path / "b",
        FOLDER,
        settings=PHOTOS | {"optim.peak_lr": 0.001},
        answers=renumbered,
        class_names=("owl", "cat", "dog"),
    )
    facts = compare_runs(a, b)
    right_a, right_b = right_by_id(first), right_by_id(second)
    assert facts["difference"] == pytest.approx(100 * (right_a.mean() - right_b.mean()))
    direct = mcnemar(right_a, right_b)
    assert facts["p_value"] == pytest.approx(direct.p_value)
    assert facts["difference_ci95"] == pytest.approx([direct.low, direct.high])
    assert facts["only_a_right"] == (right_a & ~right_b).sum()
    assert facts["only_b_right"] == (right_b & ~right_a).sum()
    counts = ("both_right", "only_a_right", "only_b_right", "both_wrong")
    assert sum(facts[key] for key in counts) == facts["num_images"] == 60


def test_what_differs_is_listed_and_nothing_else(tmp_path: Path) -> None:
    answers = random_answers(20, seed=1)
    a = write_run(tmp_path / "a", FOLDER, settings=PHOTOS, answers=answers)
    changed = {"optim.peak_lr": 0.001, "run.workers": 3}
    b = write_run(tmp_path / "b", FOLDER, settings=PHOTOS | changed, answers=answers)
    (b / "environment.json").write_text('{"packages": {"torch": "2.15.0"}}')
    facts = compare_runs(a, b)
    decides = {one["setting"]: one["decides"] for one in facts["settings"]}
    assert decides == {"optim.peak_lr": True, "run.workers": False}
    differing = {one["fact"] for one in facts["circumstances"] if one["a"] != one["b"]}
    assert differing == {"torch"}
    assert (facts["difference"], facts["p_value"]) == (0, 1)
    console = Console(file=io.StringIO(), width=80, no_color=True)
    console.print(run_difference(facts))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "do not distinguish the two" in shown


def test_the_start_is_known_by_its_weights(tmp_path: Path) -> None:
    answers = random_answers(20, seed=1)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"abc")

    def digest(name: str, start: str) -> str | None:
        settings = PHOTOS | {"model.pretrained": start}
        run = write_run(tmp_path / name, "finetune/folder", settings=settings, answers=answers)
        facts = compare_runs(run, run)
        return next(x["a"] for x in facts["circumstances"] if x["fact"] == "start_digest")

    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest("file", str(weights)) == abc
    assert digest("gone", str(tmp_path / "gone.pth")) is None
    assert digest("named", "imagenet") == "imagenet"
    start = tmp_path / "earlier"
    start.mkdir()
    (start / "model.json").write_text('{"weights_sha256": "123"}')
    assert digest("run", str(start)) == "123"


def test_runs_on_different_images_are_refused(tmp_path: Path) -> None:
    whole = random_answers(30, seed=1)
    part = random_answers(24, seed=1)
    others = replace(whole, ids=np.char.add("other/", whole.ids))
    a = write_run(tmp_path / "a", FOLDER, settings=PHOTOS, answers=whole)
    for name, answers in (("part", part), ("others", others)):
        b = write_run(tmp_path / name, FOLDER, settings=PHOTOS, answers=answers)
        with pytest.raises(DataError, match="scored on different images") as caught:
            compare_runs(a, b)
        assert caught.value.exit_code == 3


def test_runs_with_other_classes_or_no_end_are_refused(tmp_path: Path) -> None:
    answers = random_answers(30, seed=1)
    a = write_run(tmp_path / "a", FOLDER, settings=PHOTOS, answers=answers)
    names = ("cat", "dog", "fox")
    b = write_run(tmp_path / "b", FOLDER, settings=PHOTOS, answers=answers, class_names=names)
    with pytest.raises(DataError, match="different classes"):
        compare_runs(a, b)
    (b / "result.json").unlink()
    with pytest.raises(CheckpointError, match="has not finished"):
        compare_runs(a, b)
    with pytest.raises(DataError, match="is not a run folder"):
        compare_runs(a, tmp_path)
