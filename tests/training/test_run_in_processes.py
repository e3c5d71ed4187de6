"""One, two and three processes train the same run: same order, same sums, every image once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

# The micro-batch is stated, so that mixing and drop-path draw alike. SGD, since AdamW divides by
# gradients near zero and so turns rounding in the order of a sum into whole steps. 24 training
# images fill every batch: a rest that is too small for all processes is cut otherwise.
SETTINGS = [
    "--model", "deit_micro", "--resolution", "16", "--epochs", "2", "--batch-size", "12",
    "--device", "cpu", "--precision", "fp32", "--json", "--quiet",
    "--set", "schedule.micro_batch_size=4", "--set", "schedule.min_steps=0",
    "--set", "schedule.warmup_epochs=0.5", "--set", "schedule.progressive=[]",
    "--set", "data.val_fraction=0.2", "--set", "optim.name=sgd", "--set", "optim.peak_lr=0.5",
    "--set", "run.attention=plain", "--set", "augment.mixup=0.8", "--set", "augment.cutmix=1.0",
]  # fmt: skip


def run_processes(count: int, photos: Path, out: Path, *more: str) -> dict:
    command = [sys.executable, "-m", "deit_transfer", "scratch", str(photos), *SETTINGS]
    done = subprocess.run(
        [*command, "--out", str(out), "--name", "run", "--nproc", str(count), *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def weights(out: Path) -> dict[str, np.ndarray]:
    return load_file(out / "run" / "model.safetensors")


def predicted_ids(out: Path) -> list[str]:
    with np.load(out / "run" / "predictions-test.npz") as stored:
        return stored["ids"].tolist()


@pytest.fixture
def photos(image_folder: Callable[..., Path]) -> Path:
    return image_folder(train=10, test=5, size=20)


def test_two_processes_reach_the_result_of_one(photos: Path, tmp_path: Path) -> None:
    one = run_processes(1, photos, tmp_path / "one")
    two = run_processes(2, photos, tmp_path / "two")
    assert predicted_ids(tmp_path / "two") == predicted_ids(tmp_path / "one")
    assert len(set(predicted_ids(tmp_path / "two"))) == one["num_test_images"] == 15
    for key in ("top1", "top5", "mean_per_class", "images_seen", "selected_epoch"):
        assert two[key] == one[key], key
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    theirs = weights(tmp_path / "one")
    for name, ours in weights(tmp_path / "two").items():
        np.testing.assert_allclose(ours, theirs[name], atol=2e-5, err_msg=name)
    # one process can end what two began, and says that it is another number
    (tmp_path / "two" / "run" / "result.json").unlink()
    again = run_processes(1, photos, tmp_path / "two", "--resume")
    assert again["top1"] == two["top1"]
    log = (tmp_path / "two" / "run" / "train.log").read_text()
    assert "2 processes saved this and 1 go on with it" in log


@pytest.mark.slow
def test_three_processes_reach_the_result_of_one(photos: Path, tmp_path: Path) -> None:
    one = run_processes(1, photos, tmp_path / "one")
    three = run_processes(3, photos, tmp_path / "three")
    assert three["top1"] == one["top1"]
    assert three["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_a_fault_of_the_command_ends_all_processes_with_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deit_transfer", "scratch", str(tmp_path / "nowhere")]
    done = subprocess.run([*command, "--nproc", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "there is no folder" in done.stderr
    assert "Traceback" not in done.stderr
