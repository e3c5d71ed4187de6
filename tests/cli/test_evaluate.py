"""`evaluate` against the predictions that it writes, and against direct computations."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from program import QUICK, Ended, run_program
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from deit_transfer.models.classifier import Classifier
from deit_transfer.models.pretrained import read_model

USAGE, DATA = 2, 3
NAMES = ("cat", "dog", "owl")
RUN = "runs/noisy"


@pytest.fixture(scope="module")
def noisy(workplace: Path) -> Path:
    """Train a distilled network on hues of which a quarter lie in another class's folder."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 24, "test": 14}.items():
        for label, name in enumerate(NAMES):
            folder = workplace / "noisy" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                hue = (label + (number % 4 == 0)) % 3
                pixels = rng.integers(0, 90, (20, 20, 3), dtype=np.uint8)
                pixels[:, :8, hue] += 120  # on the left, so that a mirror image differs
                Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    command = ("scratch", "noisy", *QUICK, "--model=deit_micro_distilled", "--epochs=6")
    settings = ("--lr=0.03", "--set=data.val_fraction=0.3", "--name=noisy", "--json")
    ended = run_program(*command, *settings, folder=workplace)
    assert ended.code == 0, ended.err
    return workplace


def told(folder: Path, *command: str) -> dict:
    ended = run_program("evaluate", *command, "--json", folder=folder)
    assert ended.code == 0, ended.err
    return ended.json


def shown(folder: Path, *command: str) -> str:
    ended = run_program("evaluate", *command, folder=folder)
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert max(map(len, ended.out.splitlines())) <= 80
    return ended.out


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def asked_by_hand(
    classifier: Classifier, folder: Path, *, resized: int, crop: tuple[int, ...], mirrored: bool
) -> list[np.ndarray]:
    """Each head's probabilities (N, K) on the test images, without loader, batches or views."""
    views = []
    for name in NAMES:
        for path in sorted((folder / "noisy" / "test" / name).iterdir()):
            whole = Image.fromarray(pixels_of(path)).resize(
                (resized,) * 2, Image.Resampling.BICUBIC
            )
            view = np.asarray(whole.crop(crop))[:, :: -1 if mirrored else 1] / 255
            views.append((view - classifier.mean) / classifier.std)
    images = torch.tensor(np.stack(views), dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        return [logits.softmax(dim=-1).numpy() for logits in classifier(images)]


def predictions(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each head's probabilities (N, K), and the labels (N,), of what --out wrote."""
    with np.load(folder / "predictions.npz") as stored:
        heads = {name: softmax(stored[f"{name}_logits"], axis=1) for name in ("class", "distill")}
        return heads | {"joint": (heads["class"] + heads["distill"]) / 2}, stored["labels"]


def test_every_figure_is_that_of_the_predictions(noisy: Path) -> None:
    options = ("--heads=class,distill,joint", "--per-class", "--out=seen")
    result = told(noisy, RUN, *options)
    heads, labels = predictions(noisy / "seen")
    assert 30 < result["top1"] < 95  # else what follows could not fail
    for name, rows in heads.items():
        found = result["head_scores"][name]
        assert found["top1"] == pytest.approx(100 * (rows.argmax(axis=1) == labels).mean())
        assert found["loss"] == pytest.approx(log_loss(labels, rows), rel=1e-5)
        assert result["heads"][name] == found["top1"]
    decisions = heads["joint"].argmax(axis=1)
    assert result["calibration"]["nll"] == pytest.approx(result["loss"], rel=1e-6)
    assert result["calibration"]["num_images"] == result["num_test_images"] == len(labels) == 42
    scores = precision_recall_fscore_support(labels, decisions, zero_division=0)
    for key, expected in zip(("precision", "recall", "f1"), scores[:3], strict=True):
        assert [row[key] for row in result["per_class"]] == pytest.approx(list(100 * expected))
    with (noisy / "seen" / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == list(NAMES) == [row[0] for row in rows[1:]]
    counts = [[int(cell) for cell in row[1:]] for row in rows[1:]]
    assert counts == confusion_matrix(labels, decisions).tolist()
    worst = result["confused"][0]
    place = NAMES.index(worst["true"]), NAMES.index(worst["given"])
    assert counts[place[0]][place[1]] == worst["images"]
    assert json.loads((noisy / "seen" / "evaluation.json").read_text()) == result
    assert {Path(name).name for name in result["files"]} == {
        path.name for path in (noisy / "seen").iterdir()
    }
    for figure in ("confusion.png", "reliability.png"):
        assert pixels_of(noisy / "seen" / figure).std() > 5  # something is drawn


def test_the_temperature_is_fitted_on_validation_and_measured_on_test(noisy: Path) -> None:
    val = told(noisy, RUN, "--split=val", "--out=val-seen")
    assert val["split"] == "val"
    assert val["calibration"]["temperature"] is None
    assert "measured on the images it is fitted on" in " ".join(val["notes"])
    facts = told(noisy, RUN, "--out=test-seen")["calibration"]
    with np.load(noisy / "val-seen" / "predictions.npz") as stored:
        val_logits, val_labels = (
            [stored["class_logits"], stored["distill_logits"]],
            stored["labels"],
        )
    with np.load(noisy / "test-seen" / "predictions.npz") as stored:
        logits, labels = [stored["class_logits"], stored["distill_logits"]], stored["labels"]
    assert facts["fitted_on"] == f"{len(val_labels)} validation images of noisy"

    def loss(heads: list[np.ndarray], right: np.ndarray, temperature: float) -> float:
        rows = np.mean([softmax(one / temperature, axis=1) for one in heads], axis=0)
        return float(-np.log(rows[np.arange(len(right)), right]).mean())

    tried = np.geomspace(0.06, 19, 500)
    best = tried[np.argmin([loss(val_logits, val_labels, t) for t in tried])]
    assert facts["temperature"] == pytest.approx(best, rel=0.02)
    assert facts["nll_scaled"] == pytest.approx(loss(logits, labels, facts["temperature"]))
    assert facts["nll"] == pytest.approx(loss(logits, labels, 1.0), rel=1e-5)
    without = told(noisy, RUN, "--no-temperature")
    assert without["calibration"]["temperature"] is None
    assert not any("temperature" in note for note in without["notes"])


def test_two_views_are_the_mean_of_the_probabilities(noisy: Path) -> None:
    exact = ("--no-temperature", "--precision=fp32")
    result = told(noisy, RUN, "--tta=flip", *exact, "--out=flipped")
    plain = told(noisy, RUN, *exact, "--out=plain")
    assert result["against_one_view"]["top1"] == plain["top1"]
    gained = result["top1"] - plain["top1"]
    assert result["against_one_view"]["difference"] == pytest.approx(gained)
    one, _ = predictions(noisy / "plain")
    both, _ = predictions(noisy / "flipped")
    classifier, _ = read_model(noisy / RUN, device=torch.device("cpu"))
    other = asked_by_hand(classifier, noisy, resized=17, crop=(0, 0, 16, 16), mirrored=True)
    for number, head in enumerate(("class", "distill")):
        assert both[head] == pytest.approx((one[head] + other[number]) / 2, abs=1e-4)
        assert np.abs(both[head] - one[head]).max() > 0.005  # else nothing was averaged


def test_another_resolution_interpolates_positions_and_shows_larger_images(noisy: Path) -> None:
    exact = ("--no-temperature", "--precision=fp32")
    result = told(noisy, RUN, "--resolutions=24,8", *exact)
    rows = result["resolutions"]
    assert [(row["resolution"], row["own"]) for row in rows] == [
        (8, False),
        (16, True),
        (24, False),
    ]
    assert rows[1]["top1"] == result["top1"]
    assert rows[1]["loss"] == pytest.approx(result["loss"])
    classifier, _ = read_model(noisy / RUN, device=torch.device("cpu"))
    state = classifier.backbone.state_dict()
    tokens, grid = state["pos_embed"][:, :2], state["pos_embed"][:, 2:].reshape(1, 4, 4, -1)
    larger = torch.nn.functional.interpolate(
        grid.permute(0, 3, 1, 2), size=(6, 6), mode="bicubic", align_corners=False
    )
    state["pos_embed"] = torch.cat([tokens, larger.flatten(2).transpose(1, 2)], dim=1)
    classifier.backbone.set_input_size(img_size=24)
    classifier.backbone.load_state_dict(state)
    heads = asked_by_hand(classifier, noisy, resized=26, crop=(1, 1, 25, 25), mirrored=False)
    labels = np.repeat(range(3), 14)
    assert rows[2]["top1"] == pytest.approx(100 * (sum(heads).argmax(axis=1) == labels).mean())
    against = rows[2]["against_own"]
    assert against["difference"] == pytest.approx(rows[2]["top1"] - rows[1]["top1"])


def test_several_datasets_give_the_figures_of_each(noisy: Path) -> None:
    result = told(noisy, RUN, "photos", "pairs")
    assert [one["dataset"] for one in result["datasets"]] == ["photos", "pairs"]
    assert result["datasets"][1] == told(noisy, RUN, "pairs")
    screen = shown(noisy, RUN, "photos", "pairs", "--out=both")
    for one in result["datasets"]:
        assert f"{one['top1']:.2f}" in screen
    assert (noisy / "both" / "photos-confusion.png").is_file()
    assert (noisy / "both" / "pairs-per-class.csv").is_file()


def test_a_temperature_for_another_dataset_is_fitted_on_the_runs_own(noisy: Path) -> None:
    own, other = told(noisy, RUN), told(noisy, RUN, "photos", "--temperature")
    assert other["calibration"]["temperature"] == own["calibration"]["temperature"]
    assert other["calibration"]["fitted_on"].endswith("of noisy")
    assert told(noisy, RUN, "photos")["calibration"]["temperature"] is None


def test_a_temperature_fitted_on_few_images_is_said_to_be(noisy: Path) -> None:
    num_val = told(noisy, RUN, "--split=val")["num_test_images"]
    notes = told(noisy, RUN)["notes"]
    assert any(f"fitted on {num_val} validation images only" in note for note in notes)
    assert f"fitted on {num_val} validation images only" in shown(noisy, RUN)


def test_top_5_of_three_classes_is_kept_but_not_shown(noisy: Path) -> None:
    options = ("--heads=class,joint", "--no-temperature")
    assert "top-5" not in shown(noisy, RUN, *options)
    assert "top-5" not in shown(noisy, RUN, "photos", "pairs", *options)
    result = told(noisy, RUN, *options)
    assert (result["num_classes"], result["top5"]) == (3, 100)
    assert result["head_scores"]["class"]["top5"] == 100


def test_files_are_not_mixed_with_those_of_a_run(noisy: Path) -> None:
    before = sorted(path.name for path in (noisy / RUN).iterdir())
    ended = run_program("evaluate", RUN, f"--out={RUN}", folder=noisy)
    assert ended.code == USAGE
    assert "runs/noisy has recipe.toml, so it is the folder of a run" in ended.said
    assert f"--out {RUN}/evaluation" in ended.said
    assert ended.out == ""
    assert sorted(path.name for path in (noisy / RUN).iterdir()) == before


def test_classes_are_grouped_by_their_training_images(noisy: Path) -> None:
    tail = told(noisy, RUN)["long_tail"]
    assert {name: row["classes"] for name, row in tail.items()} == {
        "many": 0,
        "medium": 0,
        "few": 3,  # 24 images each, less those held back
    }
    assert tail["few"]["images"] == 42


def test_the_screen_is_short_and_grows_by_options(noisy: Path) -> None:
    short = shown(noisy, RUN)
    assert "calibration: ECE" in short
    assert "fitted on" in short
    assert len(short.splitlines()) < 30
    options = ("--heads=class,joint", "--per-class", "--resolutions=24", "--tta=flip")
    long = shown(noisy, RUN, *options)
    for title in ("Heads", "Resolutions", "Classes, the worst first", "Most frequent confusions"):
        assert title in long
        assert title not in short


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("deit_micro=runs/first/model.safetensors",), 4, "their 3 classes are called"),
        (("deit_micro_distilled=runs/first",), 4, "dist_token: not in the weights"),
        ((RUN, "--heads=tail"), USAGE, "no such head"),
        ((RUN, "--heads=class,"), USAGE, "--heads 'class,' has an empty part"),
        ((RUN, "--resolutions=big"), USAGE, "'big' is no number of pixels"),
        ((RUN, "--resolutions=18"), USAGE, "multiple of the patch size 4"),
        ((RUN, "photos", "photos"), USAGE, "given twice"),
        ((RUN, "pairs", "--split=val"), DATA, "has no val images"),
        (("runs/first", "--heads=distill"), USAGE, "no distillation head"),
        ((RUN, "--out=noisy/test/cat/001.png/x"), 6, "cannot write to"),
    ],
    ids=lambda value: "" if isinstance(value, int) else str(value)[-24:],
)
def test_what_cannot_be_asked_is_said(
    noisy: Path, finished: Ended, command: tuple[str, ...], code: int, said: str
) -> None:
    ended = run_program("evaluate", *command, folder=noisy)
    assert ended.code == code, ended
    assert said in ended.said
    assert ended.out == ""
