"""The head starts from logistic regression on frozen features, and is kept if nothing beats it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deit_transfer.batch import Batch
from deit_transfer.data.pipeline.batch_transforms import normalize
from deit_transfer.engine.precision import resolve_precision
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.training import trainer
from deit_transfer.training.head_start import HeadStart, linear_heads, start_heads
from deit_transfer.training.train import train

CPU = torch.device("cpu")


def network(name: str) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(name=name, num_classes=3, resolution=16)


def batches(count: int = 30) -> list[Batch]:
    """One hue a class, with noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = rng.integers(0, 60, (count, 3, 16, 16))
    images[np.arange(count), labels] += 150
    return [
        Batch(
            torch.from_numpy(images.astype(np.uint8)),
            torch.from_numpy(labels),
            torch.arange(count),
            torch.zeros(count, dtype=torch.long),
            0,
        )
    ]


def is_head(key: str) -> bool:
    return "head" in key or ".fc." in key


def start(classifier: Classifier) -> HeadStart | None:
    def to_input(images: torch.Tensor) -> torch.Tensor:
        return normalize(images, mean=classifier.mean, std=classifier.std)

    precision = resolve_precision("fp32", CPU)
    return start_heads(classifier, batches(), normalize=to_input, device=CPU, precision=precision)


@pytest.mark.parametrize("name", ["deit_micro", "deit_micro_distilled", "resnet10t"])
def test_every_head_classifies_the_frozen_features(name: str) -> None:
    classifier = network(name)
    frozen = {k: v.clone() for k, v in classifier.state_dict().items() if not is_head(k)}
    started = start(classifier)
    assert started is not None
    fits = started.fits
    assert len(fits) == len(linear_heads(classifier))
    assert all(fit.fold_top1 > 90 for fit in fits)
    (batch,) = batches()
    shown = normalize(batch.images, mean=classifier.mean, std=classifier.std)
    with torch.no_grad():
        heads = classifier.eval()(shown)
    for logits in heads:
        if logits is not None:
            assert (logits.argmax(1) == batch.labels).float().mean() > 0.9
    after = classifier.state_dict()
    assert all(torch.equal(after[k], v) for k, v in frozen.items())


@pytest.fixture
def recipe_for(image_folder: Callable[..., Path]) -> Callable[..., Recipe]:
    folder = image_folder("photos", train=24, test=4, size=16)

    def make(**settings: object) -> Recipe:
        values = {
            "data.dataset": str(folder),
            "data.val_fraction": 0.25,
            "data.select": "val",
            "model.name": "deit_micro",
            "model.resolution": 16,
            "run.device": "cpu",
            "run.precision": "fp32",
            "schedule.batch_size": 16,
            "schedule.epochs": 2,
            "schedule.min_steps": 0,
            **settings,
        }
        return load_recipe("finetune/folder", overrides=values)

    return make


@pytest.fixture
def weights(tmp_path: Path, recipe_for: Callable[..., Recipe]) -> str:
    scratch = recipe_for(**{"model.pretrained": "none", "optim.peak_lr": 1e-4})
    scratch = scratch.model_copy(update={"mode": "scratch"})
    return str(train(scratch, out=tmp_path, name="pretrained")["run"])


def test_a_head_that_no_epoch_beats_is_the_result(
    tmp_path: Path, weights: str, recipe_for: Callable[..., Recipe]
) -> None:
    ruinous = {"model.pretrained": weights, "optim.peak_lr": 9.0, "optim.clip_grad_norm": None}
    result = train(recipe_for(**ruinous), out=tmp_path, name="kept")
    assert result["selected_epoch"] == 0
    assert result["top1"] > 90  # a hue a class
    drawn = recipe_for(**ruinous, **{"model.head_start": "random"})
    assert train(drawn, out=tmp_path, name="drawn")["selected_epoch"] > 0


def test_a_run_killed_before_its_first_step_goes_on_to_the_same_weights(
    tmp_path: Path, weights: str, recipe_for: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(**{"model.pretrained": weights})
    whole = train(recipe, out=tmp_path, name="whole")

    def die(*_args: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "_score_fitted_head", die)
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe, out=tmp_path, name="cut")
    resumed = train(recipe, out=tmp_path, name="cut", resume=True)
    assert resumed["selected_epoch"] == whole["selected_epoch"]
    hashes = [
        json.loads((tmp_path / name / "model.json").read_text())["weights_sha256"]
        for name in ("whole", "cut")
    ]
    assert hashes[0] == hashes[1]
