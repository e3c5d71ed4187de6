"""`report` on a real run and a real comparison: what is written, where, and what is refused."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from photos import write_photos
from program import QUICK, Ended, run_program

from deit_transfer.errors import CheckpointError, DataError, UsageError
from deit_transfer.html_report.report import report


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, whose classes are alike and oddly named, and a run on them."""
    folder = tmp_path_factory.mktemp("report")
    names = ("<b>cat", "dog & co", "owl")
    write_photos(folder / "photos", classes=names, counts={"train": 8, "test": 6}, size=16)
    for split in ("train", "test"):  # dogs that look like cats
        for number in range(2):
            place = folder / "photos" / split
            shutil.copy(place / names[0] / f"{number:03d}.png", place / names[1])
    command = ("scratch", "photos", *QUICK, "--epochs=4", "--lr=0.05", "--name=first", "--quiet")
    ended = run_program(*command, folder=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="module")
def written(hard: Path) -> Ended:
    """What `report` said of the run."""
    return run_program("report", "runs/first", "--json", folder=hard)


@pytest.fixture(scope="module")
def page(hard: Path, written: Ended) -> str:
    """The page about the run."""
    assert written.code == 0, written.err
    return (hard / "runs" / "first" / "report.html").read_text(encoding="utf-8")


def test_json_says_what_was_written(hard: Path, written: Ended) -> None:
    said = written.json
    place = hard / "runs" / "first" / "report.html"
    assert said["kind"] == "run"
    assert hard / said["report"] == place
    assert said["bytes"] == place.stat().st_size
    assert said["num_pictures"] == place.read_text().count("<img ")
    assert said["headline"] in unescape(place.read_text())
    assert said["notes"] == []


def test_figures_are_those_of_the_run(hard: Path, page: str) -> None:
    result = json.loads((hard / "runs" / "first" / "result.json").read_text())
    assert f"{result['top1']:.2f} (Wilson 95% interval" in page
    assert f"gets {result['top1']:.1f}% of the 18 test images" in page
    assert result["data_fingerprint"] in page
    assert json.loads((hard / "runs/first/model.json").read_text())["weights_sha256"] in page


def test_mistakes_are_the_wrong_answers_in_order(hard: Path, page: str) -> None:
    with np.load(hard / "runs" / "first" / "predictions-test.npz") as stored:
        ids, labels, logits = (stored[key] for key in ("ids", "labels", "class_logits"))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    shares = shifted / shifted.sum(1, keepdims=True)
    wrong = np.flatnonzero(shares.argmax(1) != labels)
    assert len(wrong) > 1
    by_loss = sorted(wrong, key=lambda i: shares[i, labels[i]])
    by_confidence = sorted(wrong, key=lambda i: -shares[i].max())
    shown = re.findall(r'<span class="file">(.*?)</span>', page)
    expected = [str(ids[i]) for i in [*by_loss[:12], *by_confidence[:12]]]
    assert [unescape(name) for name in shown] == expected


def test_the_matrix_counts_what_was_taken_for_what(hard: Path, page: str) -> None:
    with np.load(hard / "runs" / "first" / "predictions-test.npz") as stored:
        labels, answers = stored["labels"], stored["class_logits"].argmax(1)
    expected = [int(((labels == i) & (answers == j)).sum()) for i in range(3) for j in range(3)]
    table = page.partition('<table class="matrix">')[2].partition("</table>")[0]
    assert [int(n) for n in re.findall(r">(\d+)</td>", table)] == expected


def test_recipe_changes_and_sections_are_told(page: str) -> None:
    assert '<th scope="row">optim.peak_lr</th><td class="text">0.05</td>' in page
    for section in ("result", "curves", "classes", "confusion", "mistakes", "attention", "recipe"):
        assert f'<section id="{section}">' in page
    assert "class token, rollout" in page


def test_class_names_stay_text(page: str) -> None:
    assert "<b>" not in page
    assert "&lt;b&gt;cat" in page
    assert "dog &amp; co" in page


def test_the_same_run_gives_the_same_page(hard: Path, page: str) -> None:
    ended = run_program("report", "runs/first", "--out=again.html", folder=hard)
    assert ended.code == 0, ended.err
    assert "Report: again.html" in ended.out
    assert (hard / "again.html").read_text(encoding="utf-8") == page


def test_pictures_can_be_left_out(hard: Path) -> None:
    report(hard / "runs" / "first", num_images=0, out=hard / "bare.html")
    assert "<img" not in (hard / "bare.html").read_text()


def copy_run(hard: Path, place: Path, *, photos: Path) -> None:
    """Copy the run to place/first, with its images said to lie elsewhere."""
    shutil.copytree(hard / "runs" / "first", place / "first")
    recipe = place / "first" / "recipe.toml"
    text = recipe.read_text()
    assert str(hard / "photos") in text
    recipe.write_text(text.replace(str(hard / "photos"), str(photos)))


def test_images_that_are_gone_are_said_to_be(hard: Path, tmp_path: Path) -> None:
    copy_run(hard, tmp_path, photos=tmp_path / "gone")
    (note,) = report(tmp_path / "first")["notes"]
    assert "images are not shown" in note
    page = (tmp_path / "first" / "report.html").read_text()
    assert "images are not shown" in page
    assert '<span class="file">' in page
    assert "<img" not in page


def test_images_that_have_moved_are_found_where_one_says(hard: Path, tmp_path: Path) -> None:
    copy_run(hard, tmp_path, photos=tmp_path / "gone")
    assert report(tmp_path / "first", data_dir=hard / "photos")["notes"] == []
    assert "<img" in (tmp_path / "first" / "report.html").read_text()


def test_images_that_are_other_ones_now_are_not_shown(hard: Path, tmp_path: Path) -> None:
    shutil.copytree(hard / "photos", tmp_path / "photos")
    copy_run(hard, tmp_path, photos=tmp_path / "photos")
    dogs = tmp_path / "photos" / "test" / "dog & co"
    for path in dogs.iterdir():
        path.rename(path.with_name(f"new-{path.name}"))
    assert "has changed since" in report(tmp_path / "first")["notes"][0]
    page = (tmp_path / "first" / "report.html").read_text()
    assert "A test image of dog" not in page
    assert "is dog &amp; co" in page


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("nowhere",), 3, "there is no folder nowhere"),
        (("runs",), 3, "Below it there is one: deit-transfer report runs/"),
        (("runs/first", "--out=thesis.html"), 2, "not a report of this program"),
    ],
)
def test_refusals(hard: Path, arguments: tuple[str, ...], code: int, expected: str) -> None:
    (hard / "thesis.html").write_text("<title>three years of work</title>")
    ended = run_program("report", *arguments, folder=hard)
    assert ended.code == code
    assert expected in ended.said
    assert (hard / "thesis.html").read_text() == "<title>three years of work</title>"


def test_a_place_that_cannot_be_written_is_refused(hard: Path, tmp_path: Path) -> None:
    run = hard / "runs" / "first"
    with pytest.raises(UsageError, match="is a folder"):
        report(run, out=tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        report(run, out=tmp_path / "no" / "page.html")
    with pytest.raises(DataError, match="neither a run nor a comparison"):
        report(hard / "photos")


def test_an_unfinished_run_is_refused(hard: Path, tmp_path: Path) -> None:
    shutil.copytree(hard / "runs" / "first", tmp_path / "first")
    (tmp_path / "first" / "result.json").unlink()
    with pytest.raises(CheckpointError, match="has no result yet"):
        report(tmp_path / "first", out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def compared(hard: Path) -> Path:
    """The folder of a comparison on the photos."""
    command = ("compare", "photos", *QUICK, "--from=runs/first", "--epochs=1", "--name=both")
    ended = run_program(*command, "--quiet", folder=hard)
    assert ended.code == 0, ended.err
    return hard / "runs" / "both"


def test_a_comparison_tells_all_its_arms_and_runs(hard: Path, compared: Path) -> None:
    comparison = json.loads((compared / "comparison.json").read_text())
    ended = run_program("report", "runs/both", "--json", folder=hard)
    assert ended.code == 0, ended.err
    assert ended.json["kind"] == "comparison"
    assert len(ended.json["runs"]) == 2
    page = unescape((compared / "report.html").read_text())
    assert ended.json["headline"] in page
    assert f"{comparison['delta']:+.2f} points of top-1" in page
    for number, arm in enumerate(comparison["arms"], start=1):
        assert f'<th scope="row">{arm["arm"]}</th><td>{arm["top1_mean"]:.1f}' in page
        assert f'<article id="run-{number}">\n<h3>{arm["arm"]}</h3>' in page


def test_a_comparison_whose_runs_are_gone_still_tells_its_scores(
    hard: Path, compared: Path, tmp_path: Path
) -> None:
    shutil.copytree(compared, tmp_path / "moved" / "deep" / "both")
    written = report(tmp_path / "moved" / "deep" / "both")
    assert len(written["notes"]) == 2
    assert written["runs"] == []
    page = (tmp_path / "moved" / "deep" / "both" / "report.html").read_text()
    assert "curves, as it was drawn then" in page
    assert page.count("data:image/png") == 1


def test_sizes_and_datasets_of_comparisons_are_told(compared: Path, tmp_path: Path) -> None:
    one = json.loads((compared / "comparison.json").read_text())
    points = [
        {"fraction": fraction, "labels": labels, "arms": one["arms"]}
        for fraction, labels in ((0.1, 77), (1.0, 770))
    ]
    one["label_efficiency"] = {"points": points, "sentences": ["Ten labels are worth seventy."]}
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes" / "comparison.json").write_text(json.dumps(one))
    report(tmp_path / "sizes")
    page = (tmp_path / "sizes" / "report.html").read_text()
    assert "<p>Ten labels are worth seventy.</p>" in page
    assert '<th scope="row">10%</th><td>77</td>' in page

    cells = {"birds": one["arms"][0]}
    rows = [
        {"arm": "scratch", "whose": "ours", "cells": cells},
        {"arm": "scratch", "whose": "paper", "cells": {"birds": {"top1": 98.5, "label": "B"}}},
    ]
    table = {"datasets": ["birds"], "rows": rows, "comparisons": [one], "labels": ["beware"]}
    failed = [{"dataset": "cars", "error": "it is not here"}]
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "datasets.json").write_text(json.dumps({**table, "failed": failed}))
    written = report(tmp_path / "datasets")
    assert written["kind"] == "datasets"
    assert written["notes"] == ["cars failed: it is not here"]
    page = (tmp_path / "datasets" / "report.html").read_text()
    assert '<th scope="row">the paper, scratch</th><td>98.5</td>' in page
    assert "<h3>birds</h3>" in page


def test_an_arm_of_several_seeds_has_its_interval_over_them(compared: Path, tmp_path: Path) -> None:
    one = json.loads((compared / "comparison.json").read_text())
    mean = one["arms"][0]["top1_mean"]
    spread = {"top1_ci95": [mean - 2, mean + 2], "ci_method": "t over seeds", "n": 3}
    one["arms"][0] |= spread
    (tmp_path / "comparison.json").write_text(json.dumps(one))
    report(tmp_path)
    assert "<small>± 2.0, 3 seeds</small>" in (tmp_path / "report.html").read_text()


def test_a_damaged_comparison_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for text in ("{", "[]", '{"dataset": "x"}'):
        (tmp_path / "bad" / "comparison.json").write_text(text)
        with pytest.raises(DataError, match=r"comparison\.json"):
            report(tmp_path / "bad")


@pytest.mark.parametrize(
    ("file", "content", "page", "run"),
    [
        ("sweep.json", {"winner": {"run": "sought/trial-002"}}, "sweep.md", "sought/trial-002"),
        ("sweep.json", {"winner": None}, "sweep.md", "RUN"),
        (
            "epochs.json",
            {"points": [{"arms": [{"runs": [{"run": "runs/a"}, {"run": "runs/b"}]}]}]},
            "epochs.md",
            "runs/b",
        ),
    ],
)
def test_other_folders_are_named_with_what_to_report(
    tmp_path: Path, file: str, content: dict, page: str, run: str
) -> None:
    place = tmp_path / "sought"
    place.mkdir()
    (place / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"whose page is {place / page}") as caught:
        report(place)
    assert caught.value.hint == f"deit-transfer report {run}"
