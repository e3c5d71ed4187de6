"""Disagreement on the command line: stored predictions by image id, fresh ones by class name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from program import Ended, run_program

NAMES = ["ground truth", "first", "pupil:class", "pupil:distill", "pupil:joint"]


def stored(run: Path) -> dict[str, np.ndarray]:
    with np.load(run / "predictions-test.npz") as arrays:
        return dict(arrays)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def decided(run: Path) -> dict[str, dict[str, int]]:
    """Return, by head, the class number of each image by its id."""
    arrays = stored(run)
    heads = {"class": softmax(arrays["class_logits"])}
    if "distill_logits" in arrays:
        heads["distill"] = softmax(arrays["distill_logits"])
        heads["joint"] = heads["class"] + heads["distill"]
    return {
        head: dict(zip(arrays["ids"].tolist(), values.argmax(axis=1).tolist(), strict=True))
        for head, values in heads.items()
    }


@pytest.fixture(scope="module")
def compared(workplace: Path, finished: Ended, distilled: Ended) -> Ended:
    """What comparing two runs printed that store the same images in other orders.

    Their answers are drawn: what the runs have learned is too good to differ.
    """
    rng = np.random.default_rng(0)
    for name in ("first", "pupil"):
        shutil.copytree(workplace / "runs" / name, workplace / "drawn" / name)
        arrays = stored(workplace / "runs" / name)
        order = rng.permutation(len(arrays["ids"]))
        for key in [key for key in arrays if key.endswith("logits")]:
            arrays[key] = rng.normal(size=arrays[key].shape).astype(np.float32)
        turned = {key: values[order] for key, values in arrays.items()}
        np.savez(workplace / "drawn" / name / "predictions-test.npz", **turned)
    command = ("disagree", "drawn/first", "drawn/pupil", "--out=figures/rates.png", "--json")
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0, ended.err
    return ended


def test_the_matrix_is_a_direct_count_over_image_ids(workplace: Path, compared: Ended) -> None:
    facts = compared.json
    arrays = stored(workplace / "drawn" / "first")
    truth = dict(zip(arrays["ids"].tolist(), arrays["labels"].tolist(), strict=True))
    first, pupil = (decided(workplace / "drawn" / name) for name in ("first", "pupil"))
    rows = [truth, first["class"], pupil["class"], pupil["distill"], pupil["joint"]]
    assert facts["names"] == NAMES
    assert facts["num_images"] == 12
    for a, left in enumerate(rows):
        for b, right in enumerate(rows):
            different = [left[image] != right[image] for image in truth]
            assert facts["matrix"][a][b] == pytest.approx(sum(different) / 12, abs=1e-12)
    assert 0 < facts["matrix"][2][4] < facts["matrix"][1][2] < 1
    assert len(facts["tests"]) == 6


def test_the_figure_is_a_png_where_it_was_asked_for(workplace: Path, compared: Ended) -> None:
    assert compared.json["figure"] == "figures/rates.png"
    content = (workplace / "figures" / "rates.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000


def test_only_what_is_about_other_images_is_asked_again(
    workplace: Path, finished: Ended, distilled: Ended
) -> None:
    shutil.copytree(workplace / "runs" / "first", workplace / "unsure" / "first")
    (workplace / "unsure" / "first" / "data.json").unlink()  # what it was scored on is unknown
    command = ("disagree", "unsure/first", "runs/pupil", "--on=photos", "--device=cpu")
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0, ended.err
    assert "scored now: first" in ended.out
    assert "predictions stored by the run: pupil" in ended.out
    assert ended.out.isascii()
    assert max(map(len, ended.out.splitlines())) <= 80
    error = 1 - finished.json["top1"] / 100
    assert f"| truth, 1 |  {error:.3f} |" in ended.out
    assert "The paper's Table 4" in ended.out


def test_other_images_with_other_class_numbers(workplace: Path, distilled: Ended) -> None:
    command = ("disagree", "runs/first", "runs/pupil", "--on=pairs", "--json", "--quiet")
    facts = run_program(*command, folder=workplace).json
    scored = run_program("evaluate", "runs/first", "pairs", "--json", folder=workplace).json
    assert facts["names"] == NAMES
    assert facts["num_images"] == 8
    assert facts["matrix"][0][1] == pytest.approx(1 - scored["top1"] / 100)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("runs/first", "deit_tiny_patch16_224"), 2, "Name the images to score it on: --on"),
        (("runs/first", "runs/../runs/first"), 2, "is listed 2 times"),
        (("photos", "runs/first"), 3, "is not a run folder"),
        (("runs/first", "runs/pupil", "--on=odd"), 3, "such as lynx"),
        (("runs/first",), 2, "needs at least two classifiers"),
    ],
)
def test_what_cannot_be_compared(
    workplace: Path, distilled: Ended, arguments: tuple[str, ...], code: int, said: str
) -> None:
    odd = workplace / "odd" / "lynx"  # a class that no run knows
    if not odd.exists():
        shutil.copytree(workplace / "hues0" / "test" / "dog", odd)
    ended = run_program("disagree", *arguments, folder=workplace)
    assert ended.code == code, ended.err
    assert said in ended.said


def test_one_distilled_network_has_heads_that_differ(workplace: Path, distilled: Ended) -> None:
    facts = run_program("disagree", "runs/pupil", "--json", folder=workplace).json
    assert facts["names"] == ["ground truth", "pupil:class", "pupil:distill", "pupil:joint"]


def test_the_figure_replaces_only_its_like(workplace: Path, distilled: Ended) -> None:
    place = workplace / "mine.png"
    shutil.copy(workplace / "photos" / "test" / "cat" / "000.png", place)
    command = ("disagree", "runs/pupil", f"--out={place.name}")
    before = place.read_bytes()
    ended = run_program(*command, folder=workplace)
    assert ended.code == 2
    assert "mine.png exists already, and is not a plot of this program" in ended.said
    assert ended.out == ""
    assert place.read_bytes() == before
    place.unlink()
    for _ in range(2):  # the second time over a figure of ours
        assert run_program(*command, folder=workplace).code == 0
