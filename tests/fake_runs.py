"""Write the files of a finished run without training one, for what only reads runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deit_transfer.recipe.loader import dump_recipe, load_recipe
from deit_transfer.runs.predictions import StoredPredictions, write_predictions

CLASSES = ("cat", "dog", "owl")


def write_run(
    folder: Path,
    recipe: str,
    *,
    settings: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = CLASSES,
    answers: StoredPredictions | None = None,
    **result: Any,
) -> Path:
    """Write a run of a shipped recipe with these settings changed; return its folder.

    Args:
        folder: The run's folder, made here.
        recipe: A shipped recipe's name.
        settings: Recipe settings by dotted location.
        class_names: In label order.
        answers: Predictions to store; none are without.
        result: What differs from a plain result.
    """
    folder.mkdir(parents=True)
    told = load_recipe(recipe, overrides=settings)
    (folder / "recipe.toml").write_text(dump_recipe(told))
    facts = {
        "mode": told.mode,
        "dataset": Path(told.data.dataset).name,
        "model": told.model.name,
        "seed": told.run.seed,
        "top1": 50.0,
        "images_seen": 1000,
        "num_test_images": 12,
        "resolution": told.model.resolution or 224,
        "counts": {"train": 22, "val": 2, "test": 12},
    }
    (folder / "result.json").write_text(json.dumps(facts | result))
    (folder / "classes.json").write_text(json.dumps({"class_names": list(class_names)}))
    (folder / "data.json").write_text(json.dumps({"fingerprint": "f" * 64}))
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "2.10.0"}}))
    if answers is not None:
        write_predictions(folder / "predictions-test.npz", answers)
    return folder


def random_answers(
    num_images: int, *, seed: int, distilled: bool = False, num_classes: int = len(CLASSES)
) -> StoredPredictions:
    """Return answers by chance, the images in an order that the seed decides.

    An image's label depends on its id alone.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(num_images)
    logits = rng.normal(size=(2, num_images, num_classes)).astype(np.float32)
    labels = order % num_classes
    logits[:, np.arange(num_images), labels] += 1
    return StoredPredictions(
        ids=np.array([f"test/{number:04d}.png" for number in order]),
        labels=labels.astype(np.int64),
        class_logits=logits[0],
        distill_logits=logits[1] if distilled else None,
    )
