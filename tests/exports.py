"""A finished run without training: photos of many sizes, and a network whose answers vary."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pretrained import write_model_files
from deit_transfer.recipe.loader import dump_recipe, load_recipe
from deit_transfer.runs.folder import RECIPE_FILE, RunFolder

NAMES = ("ant", "bee", "cat")
CROP = 0.8
SIDES = ((32, 32), (41, 57), (60, 33), (35, 36), (50, 50))


def write_noise(folder: Path, *, per_class: int) -> None:
    """Write photos of smooth noise in train/ and test/, of several sizes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", 2)):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = SIDES[number % len(SIDES)]
                coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
                photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
                photo.save(folder / split / name / f"{number}.png")


def write_run(
    place: Path, *, model: str = "deit_micro", val_fraction: float = 0.5, side: int = 32
) -> Path:
    """Write photos/ and a finished run on them below `place`, and return the run's folder.

    The head is scaled and centered so that every class is decided for on some photo.
    """
    write_noise(place / "photos", per_class=40)
    values = {
        "data.dataset": str(place / "photos"),
        "data.val_fraction": val_fraction,
        "model.name": model,
        "model.resolution": side,
        "augment.crop_pct": CROP,
        "data.select": "last",
    }
    recipe = load_recipe("scratch/folder", overrides=values)
    run = place / "run"
    run.mkdir()
    torch.manual_seed(0)
    classifier = build_classifier(name=model, num_classes=len(NAMES), resolution=side).eval()
    _spread_decisions(classifier)
    folder = RunFolder(run)
    folder.write_text(RECIPE_FILE, dump_recipe(recipe))
    folder.write_json("classes.json", {"class_names": list(NAMES)})
    write_model_files(run, classifier, class_names=NAMES, crop_pct=CROP)
    folder.set_status("done")
    return run


def changed_run(run: Path, change: Callable[[Classifier], None]) -> None:
    """Change the network of a run, weights and all."""
    from deit_transfer.models.pretrained import read_model

    classifier, names = read_model(run, device=torch.device("cpu"))
    change(classifier)
    write_model_files(run, classifier, class_names=names, crop_pct=CROP)


@torch.no_grad()
def _spread_decisions(classifier: Classifier) -> None:
    images = torch.nn.functional.interpolate(
        torch.randn(64, 3, 5, 5), size=classifier.resolution, mode="bicubic"
    )
    heads = [
        getattr(classifier.backbone, name)
        for name in ("head", "head_dist")
        if hasattr(classifier.backbone, name)
    ]
    for number, head in enumerate(heads):
        head.weight.normal_()
        logits = classifier(images)[number]
        head.weight.mul_(4 / logits.std())
        head.bias.sub_(classifier(images)[number].mean(dim=0))
