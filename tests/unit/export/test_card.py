"""The model card says what the run recorded, and nothing of the machine it ran on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from exports import write_run

from deit_transfer.errors import CheckpointError
from deit_transfer.export.card import escape_markdown, is_card, model_card
from deit_transfer.runs.predictions import StoredPredictions, write_predictions

RESULT = {
    "mode": "finetune",
    "top1": 66.6667,
    "top1_ci95": [20.77, 93.85],
    "mean_per_class": 66.67,
    "num_test_images": 3,
    "epochs": 5,
    "weights": "ema",
    "selected_on": "val",
    "selects_on_test": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("card"), model="deit_micro_distilled")
    (run / "result.json").write_text(json.dumps(RESULT))
    (run / "data.json").write_text(
        json.dumps({"dataset": "/home/me/photos", "counts": {"train": 60, "val": 60, "test": 3}})
    )
    class_head = np.array([[9, 0, 0], [0, 9, 0], [0, 9, 0]], np.float32)
    stored = StoredPredictions(
        ids=np.array(["x", "y", "z"]),
        labels=np.arange(3),
        class_logits=class_head,
        distill_logits=np.array([[0, 0, 0], [0, 0, 0], [0, 0, 30]], np.float32),
    )
    write_predictions(run / "predictions-test.npz", stored)
    return run


def test_the_card_tells_what_was_measured_and_on_what(run: Path) -> None:
    card = model_card(run, repository="me/ants")
    assert is_card(card.encode())
    assert "Top-1 on 3 test images: **66.67%**" in card
    assert "20.77 to 93.85" in card
    assert "| train | 60 |" in card
    assert "| bee | 1 |" in card
    assert 'timm.create_model("hf-hub:me/ants", pretrained=True)' in card
    assert "shorter side has 40 pixels" in card
    assert "/home/me" not in card
    assert "photos: 3 classes" in card


def test_of_two_heads_it_tells_what_timm_will_score(run: Path) -> None:
    # the mean of the logits decides all three rightly, the mean of the probabilities two or three
    assert "the same images give 100.00%" in model_card(run)


def test_a_run_without_scores_has_a_card(run: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "result.json").unlink()
    (bare / "predictions-test.npz").unlink()
    assert "No accuracy was recorded." in model_card(bare)


def test_an_unfinished_run_has_none(run: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "model.json").unlink()
    with pytest.raises(CheckpointError, match="has not finished"):
        model_card(bare)


def test_names_cannot_break_out_of_the_table() -> None:
    assert escape_markdown("a|b\n<img>") == "a\\|b\\\\n\\<img\\>"
