"""The command probes a run's features, says the same to people and programs, and keeps features."""

import json
from pathlib import Path

import numpy as np
import pytest
from program import Ended, run_program

from deit_transfer.recipe.loader import load_recipe
from deit_transfer.runs.predictions import read_predictions
from deit_transfer.training.data_splits import load_splits

PROBE = (
    "probe",
    "runs/first",
    "photos",
    "--device=cpu",
    "--cache=kept",
    "--set=run.attention=fused",
)


@pytest.fixture(scope="session")
def probed(workplace: Path, finished: Ended) -> Ended:
    """What the probe of the run runs/first on its own photos printed; it wrote probed/."""
    ended = run_program(*PROBE, "--json", "--out=probed", folder=workplace)
    assert ended.code == 0, ended.err
    return ended


def test_the_object_has_both_probes_and_the_data_of_fine_tuning(
    workplace: Path, probed: Ended
) -> None:
    told = probed.json
    assert told["top1"] > 90  # a hue a class
    assert 0 <= told["knn_top1"] <= 100
    assert told["seconds"] > 0
    assert told["top1_ci95"][0] <= told["top1"] <= told["top1_ci95"][1]
    settings = load_recipe(
        "finetune/folder", overrides={"data.dataset": str(workplace / "photos")}
    ).data
    splits = load_splits(settings)
    assert told["counts"] == {"train": 24, "test": 12}
    assert told["data_fingerprint"] == splits.fingerprint
    assert told["resolution"] == 16  # that of the run
    assert any("trained on photos" in note for note in told["notes"])
    assert (told["features_computed"], told["features_kept"]) == (36, 0)


def test_the_predictions_that_it_writes_give_its_figures(workplace: Path, probed: Ended) -> None:
    stored = read_predictions(workplace / "probed" / "predictions-test.npz")
    right = stored.decisions() == stored.labels
    assert 100 * np.mean(right) == pytest.approx(probed.json["top1"])
    assert len(set(stored.ids.tolist())) == probed.json["num_test_images"] == 12
    again = run_program(*PROBE, "--out=probed", folder=workplace)
    assert again.code == 2
    assert "probed exists already" in again.said


def test_the_run_that_it_writes_is_asked_like_any_other(workplace: Path, probed: Ended) -> None:
    told = run_program("evaluate", "probed", "photos", "--json", folder=workplace).json
    recorded = json.loads((workplace / "probed" / "result.json").read_text())
    assert told["top1"] == pytest.approx(recorded["top1"])
    picture = next((workplace / "photos" / "test").glob("*/*"))
    answer = run_program("predict", "probed", str(picture), "--json", folder=workplace).json
    assert answer["images"][0]["classes"][0]["class"] == picture.parent.name


def test_a_second_probe_takes_the_kept_features_and_shows_a_table(
    workplace: Path, probed: Ended
) -> None:
    shown = run_program(*PROBE, folder=workplace)
    assert shown.code == 0, shown.err
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80
    assert shown.out.isascii()
    assert f"top-1 {probed.json['top1']:.2f}% on 12 test images" in " ".join(shown.out.split())
    assert "features of 36 images were kept" in " ".join(shown.out.split())
    smaller = run_program(*PROBE, "--train-limit=12", "--json", folder=workplace).json
    assert smaller["counts"]["train"] == 12
    assert smaller["features_computed"] == 0
    other_side = run_program(*PROBE, "--resolution=32", "--json", folder=workplace).json
    assert other_side["features_computed"] == 36


@pytest.mark.parametrize(
    ("subject", "code", "sentence"),
    [
        ("photos", 3, "is not a run folder"),
        ("runs/nowhere", 3, "no run in runs/nowhere"),
        ("deit_huge", 2, "unknown model"),
        ("deit_micro=missing.safetensors", 4, "missing.safetensors"),
    ],
)
def test_what_cannot_be_probed_is_named(
    workplace: Path, subject: str, code: int, sentence: str
) -> None:
    ended = run_program("probe", subject, "photos", "--cache=kept", folder=workplace)
    assert ended.code == code, ended.err
    assert sentence in ended.said
    assert ended.out == ""
