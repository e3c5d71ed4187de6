"""Open a model for evaluation: a finished run, or a network by name with its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deit_transfer.errors import CheckpointError
from deit_transfer.models.checkpoint_adaptation import fitting_model, load_pretrained
from deit_transfer.models.classifier import Classifier, build_classifier, find_head_names
from deit_transfer.models.pretrained import (
    HF_HUB,
    IMAGENET_CLASSES,
    LOCAL_DIR,
    PretrainedWeights,
    is_hub_folder,
    read_model,
    read_pretrained,
)
from deit_transfer.models.weights_file import WEIGHTS_SUFFIXES
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import RECIPE_FILE, RunFolder, open_run
from deit_transfer.runs.model_reference import split_model_weights


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network in evaluation mode, heads included, and what is known about it.

    `folder` and `recipe` are None for a network that is not a run of ours. `class_names` is None
    where the weights do not say what their classes are called. `config` is timm's
    `pretrained_cfg`, with the crop and interpolation the network was measured with; empty for a
    run. `notes` say what was not simply copied from the weights.
    """

    name: str
    classifier: Classifier
    class_names: tuple[str, ...] | None
    folder: RunFolder | None
    recipe: Recipe | None
    config: dict[str, Any]
    notes: tuple[str, ...]


def is_run_path(text: str) -> bool:
    """Return whether a text means a run's folder, be it there or not."""
    path = Path(text).expanduser()
    if path.is_dir():
        return not is_hub_folder(path)
    return "/" in text and "=" not in text and not _means_weights(text)


def open_model(text: str, *, device: torch.device) -> LoadedModel:
    """Open a run's folder, `MODEL` with its published weights, `MODEL=WEIGHTS`, or `WEIGHTS`.

    Args:
        text: A finished run's folder; a network's name, such as deit_tiny_patch16_224; a name
            and weights for it, such as deit_tiny_patch16_224=deit_tiny.safetensors; or weights
            alone, a file whose shapes are a DeiT's or a folder in timm's layout.
        device: Where the network is put.

    Raises:
        UsageError: It is neither a folder nor the name of a network.
        DataError: The folder is no run.
        CheckpointError: The run has not finished, or the weights cannot be read or downloaded,
            or are not those of the whole network.
    """
    if is_run_path(text):
        folder = open_run(Path(text).expanduser())
        classifier, class_names = read_model(folder.path, device=device)
        return LoadedModel(
            name=folder.path.resolve().name,
            classifier=classifier,
            class_names=class_names,
            folder=folder,
            recipe=load_recipe(str(folder.path / RECIPE_FILE)),
            config={},
            notes=(),
        )
    name, weights = read_model_weights(text)
    classifier = build_classifier(
        name=name,
        num_classes=_num_classes(name, weights),
        resolution=_resolution(weights),
    )
    own: Any = getattr(classifier.backbone, "pretrained_cfg", {})
    report = load_pretrained(classifier, weights, keep_head=True, complete=True)
    classifier.mean = weights.mean or classifier.mean
    classifier.std = weights.std or classifier.std
    return LoadedModel(
        name=name,
        classifier=classifier.to(device).eval(),
        class_names=weights.class_names,
        folder=None,
        recipe=None,
        config={**own, **weights.config},
        notes=tuple(report.scoring_notes),
    )


def read_model_weights(text: str) -> tuple[str, PretrainedWeights]:
    """Read `MODEL`, `MODEL=WEIGHTS` or `WEIGHTS`, and return the network's name and the weights.

    Args:
        text: What is no run's folder; without WEIGHTS they are the published ones, without MODEL
            it is the network that the weights fit.

    Raises:
        UsageError: The name is a path: a run was meant that is not there.
        CheckpointError: The weights cannot be read, or fit no known network.
    """
    if _means_weights(text):
        weights = read_pretrained(text, model_name="")
        return fitting_model(weights), weights
    name, source = split_model_weights(text)
    return name, read_pretrained(source, model_name=name)


def _means_weights(text: str) -> bool:
    """Return whether a text is a weights file or a folder in timm's layout, without a name."""
    path = Path(text).expanduser()
    if text.startswith((LOCAL_DIR, HF_HUB)) or path.is_file():
        return True
    return is_hub_folder(path) or ("=" not in text and text.endswith(WEIGHTS_SUFFIXES))


def _num_classes(name: str, weights: PretrainedWeights) -> int:
    """Return the number of classes of the weights' own head.

    Raises:
        CheckpointError: As many names as classes are needed, and there are not.
    """
    heads = [f"{head}.weight" for head in find_head_names(name)]
    head = next((weights.state_dict[key] for key in heads if key in weights.state_dict), None)
    if head is None:
        return IMAGENET_CLASSES  # the report names the head that is missing
    names = weights.class_names
    if names is not None and len(names) != head.shape[0]:
        raise CheckpointError(
            f"{weights.origin} names {len(names)} classes for a head of {head.shape[0]}",
            hint="Correct label_names in its config.json",
        )
    return int(head.shape[0])


def _resolution(weights: PretrainedWeights) -> int | None:
    """Return the pixels a side that a folder's configuration gives; None where it gives none."""
    size = weights.config.get("input_size")
    pixels = size[-1] if isinstance(size, list | tuple) and size else None
    return pixels if isinstance(pixels, int) and pixels > 0 else None
