"""Load a model for evaluation with its preprocessing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from deit_transfer.data.dataset import Dataset, ImageSet, Progress, Split
from deit_transfer.data.pipeline.loader import EvalBatches
from deit_transfer.data.pipeline.transforms import (
    CropMode,
    EvalTransform,
    Interpolation,
    eval_transform,
)
from deit_transfer.engine.distributed import World
from deit_transfer.engine.inference import Predictions
from deit_transfer.engine.precision import (
    Precision,
    choose_attention,
    resolve_device,
    resolve_precision,
)
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import CheckpointError, DataError, UsageError
from deit_transfer.evaluation.load_model import LoadedModel, is_run_path, open_model
from deit_transfer.models.classifier import Classifier, set_attention
from deit_transfer.models.pretrained import IMAGENET_CLASSES
from deit_transfer.models.test_time_augmentation import AveragedViews, Views, at_resolution
from deit_transfer.recipe.loader import check_values, load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import RECIPE_FILE, RESULT_FILE, open_run
from deit_transfer.training import build
from deit_transfer.training.predict_split import predict_split

HEADS = ("class", "distill", "joint")


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model with its class names, its preprocessing and where it runs.

    `recipe` is the run's own, or one that holds nothing but how a network by name sees images.
    """

    text: str
    subject: LoadedModel
    class_names: tuple[str, ...]
    recipe: Recipe
    device: torch.device
    precision: Precision
    notes: tuple[str, ...]

    @property
    def is_run(self) -> bool:
        return self.subject.folder is not None

    @property
    def heads(self) -> tuple[str, ...]:
        """Name the classifiers that the network holds: one, or class, distill and joint."""
        return HEADS if self.subject.classifier.distilled else ("joint",)

    def result(self) -> dict[str, Any]:
        """Return what the run recorded of itself; empty for a network by name."""
        folder = self.subject.folder
        return {} if folder is None else folder.read_json(RESULT_FILE)


def open_predictor(text: str, *, overrides: Mapping[str, Any] | None = None) -> Predictor:
    """Open a run's folder, `MODEL`, or `MODEL=WEIGHTS`.

    Args:
        text: As `open_model` takes it.
        overrides: Recipe settings of place and precision, by dotted location.

    Raises:
        DataError: It is a path, and there is no run.
        UsageError: It is neither a folder nor the name of a network.
        CheckpointError: The run has not finished, or the weights cannot be used.
    """
    changed = dict(overrides or {})
    if is_run_path(text):
        recipe = load_recipe(
            str(open_run(Path(text).expanduser()).path / RECIPE_FILE), overrides=changed
        )
    else:
        recipe = _plain_recipe(changed)
    device = resolve_device(recipe.run.device)
    subject = open_model(text, device=device)
    if subject.recipe is None:
        recipe = _seeing_as(recipe, subject)
    names, notes = _class_names(subject)
    precision, asked = resolve_precision(recipe.run.precision, device), recipe.run.attention
    # as in training: the kernels round differently
    set_attention(subject.classifier, choose_attention(precision) if asked == "auto" else asked)
    return Predictor(
        text=text,
        subject=subject,
        class_names=names,
        recipe=recipe,
        device=device,
        precision=precision,
        notes=(*subject.notes, *notes),
    )


def check_heads(predictor: Predictor, heads: tuple[str, ...]) -> None:
    """Refuse heads that there are not, or that this network does not have."""
    for head in heads:
        if head not in HEADS:
            raise UsageError(
                f"--heads {head}: there is no such head", hint=f"Choose from {','.join(HEADS)}"
            )
        if head not in ("class", *predictor.heads):
            raise UsageError(
                f"--heads {head}: {predictor.subject.classifier.name} has no distillation head",
                hint='Networks with "_distilled" in their name have one; leave --heads out',
            )


def in_classes_of(
    class_names: tuple[str, ...], dataset: Dataset, *, split: Split = "test"
) -> ImageSet:
    """Return a split labeled as the network numbers its classes; names decide, never order.

    Raises:
        DataError: The dataset has classes that the network does not know, or no such split.
    """
    number = {name: label for label, name in enumerate(class_names)}
    unknown = [name for name in dataset.class_names if name not in number]
    if unknown:
        raise DataError(
            f"{dataset.info.title} has classes that the run was not trained on: "
            f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}",
            hint=f"The run knows {', '.join(class_names[:10])}"
            f"{' ...' if len(class_names) > 10 else ''}",
        )
    if split not in dataset.splits:
        raise DataError(
            f"{dataset.info.title} has no {split} images of its own",
            hint=f"It has {', '.join(dataset.splits)}: --split {next(iter(dataset.splits))}",
        )
    renumbered = np.array([number[name] for name in dataset.class_names], dtype=np.int64)
    return dataset.splits[split].renumber(renumbered)


@dataclass(frozen=True, kw_only=True)
class ResolutionPredictor:
    """A model at one resolution, with or without test-time augmentation."""

    predictor: Predictor
    classifier: Classifier
    model: torch.nn.Module
    transform: EvalTransform

    def batches(self, images: ImageSet, *, stop: StopSignals) -> EvalBatches:
        """Return the split's batches, looking for signals while images are decoded beforehand."""

        def look_for_stop(_done: int, _total: int) -> None:
            stop.check()

        return build.scoring_batches(
            self.predictor.recipe,
            images,
            self.classifier,
            World(),
            look_for_stop,
            transform=self.transform,
        )

    def predict(
        self, batches: EvalBatches, *, stop: StopSignals, progress: Progress | None = None
    ) -> Predictions:
        """Return the network's answers; `progress` is called with (images answered, images)."""
        return predict_split(
            self.model,
            batches,
            classifier=self.classifier,
            device=self.predictor.device,
            precision=self.predictor.precision,
            world=World(),
            stop=stop,
            progress=progress,
        )


def predictor_at(
    predictor: Predictor, *, resolution: int | None = None, views: Views = "one"
) -> ResolutionPredictor:
    """Return the network as it is to be asked.

    Args:
        scorer: The network.
        resolution: Pixels a side; None for its own. Patch positions are interpolated to it.
        views: Views of each image whose probabilities are averaged.

    Raises:
        UsageError: The patches do not divide the resolution, or the evaluation crop leaves no
            border to cut five crops from.
    """
    classifier = predictor.subject.classifier
    if resolution is not None:
        classifier = at_resolution(classifier, resolution)
    crop = build.evaluation_crop(predictor.recipe)
    resized = math.floor(classifier.resolution / crop)
    view = _view(predictor.subject)
    usual = eval_transform(resolution=classifier.resolution, crop_pct=crop, **view)
    if views == "one":
        return ResolutionPredictor(
            predictor=predictor, classifier=classifier, model=classifier, transform=usual
        )
    averaged = AveragedViews(classifier, views=views)
    if views == "flip":
        return ResolutionPredictor(
            predictor=predictor, classifier=classifier, model=averaged, transform=usual
        )
    if resized == classifier.resolution:
        raise UsageError(
            f"--tta {views}: five-crop needs crop_pct < 1; this model uses the whole image "
            f"(crop {crop:g})",
            hint="Use --tta flip, which averages the image and its mirror image",
        )
    whole = eval_transform(resolution=resized, crop_pct=1.0, **view)
    return ResolutionPredictor(
        predictor=predictor, classifier=classifier, model=averaged, transform=whole
    )


def _plain_recipe(overrides: Mapping[str, Any]) -> Recipe:
    """Return a recipe of defaults, of which only the place and the evaluation view are read."""
    values: dict[str, Any] = {"mode": "pretrain"}
    for location, value in overrides.items():
        section, _, key = location.partition(".")
        values.setdefault(section, {})[key] = value
    return check_values(values, where="the command line")


class _View(TypedDict, total=False):
    """How an image is resized and cropped, beyond the share that is kept."""

    interpolation: Interpolation
    crop_mode: CropMode
    fill: tuple[int, int, int]


def _view(subject: LoadedModel) -> _View:
    """Return how the network's authors showed it images; a run sees them as it was trained to."""
    if not subject.config:
        return {}
    red, green, blue = (round(255 * value) for value in subject.classifier.mean)
    return {
        "interpolation": subject.config.get("interpolation") or "bicubic",
        "crop_mode": subject.config.get("crop_mode") or "center",
        "fill": (red, green, blue),
    }


def _seeing_as(recipe: Recipe, subject: LoadedModel) -> Recipe:
    """Return the recipe with the evaluation crop that the network's authors measured with."""
    augment = recipe.augment.model_copy(update={"crop_pct": subject.config.get("crop_pct")})
    return recipe.model_copy(update={"augment": augment})


def _class_names(subject: LoadedModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes' names in label order, and what to say where they are taken on trust."""
    if subject.class_names is not None:
        return subject.class_names, ()
    if subject.classifier.num_classes != IMAGENET_CLASSES:
        raise CheckpointError(
            f"{subject.name}: the weights do not say what their "
            f"{subject.classifier.num_classes} classes are called",
            hint="Give a run's folder, a folder with label_names in its config.json, or weights "
            "with ImageNet's head",
        )
    from timm.data import ImageNetInfo

    note = "the weights do not name their classes: taken as ImageNet's 1,000 in the usual order"
    return tuple(ImageNetInfo().label_names()), (note,)
