"""Open a model for evaluation: a finished run, or a network by name with its weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from deit_transfer.models.checkpoint_adaptation import load_pretrained
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pretrained import IMAGENET_CLASSES, read_model, read_pretrained
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import RECIPE_FILE, RunFolder, open_run
from deit_transfer.runs.model_reference import split_model_weights


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network in evaluation mode, heads included, and what is known about it.

    `folder` and `recipe` are None for a network that is not a run of ours. `class_names` is None
    where the weights do not say what their classes are called.
    """

    name: str
    classifier: Classifier
    class_names: tuple[str, ...] | None
    folder: RunFolder | None
    recipe: Recipe | None


def open_model(text: str, *, device: torch.device) -> LoadedModel:
    """Open a run's folder, `MODEL` with its published weights, or `MODEL=WEIGHTS`.

    Args:
        text: A finished run's folder; a network's name, such as deit_tiny_patch16_224; or a name
            and a start for it, such as deit_tiny_patch16_224=deit_tiny.safetensors, whose head
            must be ImageNet's.
        device: Where the network is put.

    Raises:
        UsageError: It is neither a folder nor the name of a network.
        DataError: The folder is no run.
        CheckpointError: The run has not finished, or the weights cannot be read or downloaded.
    """
    if Path(text).is_dir():
        folder = open_run(text)
        classifier, class_names = read_model(folder.path, device=device)
        return LoadedModel(
            name=folder.path.resolve().name,
            classifier=classifier,
            class_names=class_names,
            folder=folder,
            recipe=load_recipe(str(folder.path / RECIPE_FILE)),
        )
    name, start = split_model_weights(text)
    classifier = build_classifier(name=name, num_classes=IMAGENET_CLASSES)
    weights = read_pretrained(start, model_name=name)
    load_pretrained(classifier, weights, keep_head=True)
    return LoadedModel(
        name=name,
        classifier=classifier.to(device).eval(),
        class_names=weights.class_names,
        folder=None,
        recipe=None,
    )
