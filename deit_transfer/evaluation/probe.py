"""Probe: how good frozen features are on a dataset, before any training.

The features of every image are computed once and kept (`evaluation/features.py`); logistic
regression and nearest neighbors are fitted to those of the training images, choose their settings
on the validation images, take those in as well, and classify the test images once.

As an arm of a comparison:

    probed = probe_arm(recipe, inputs, start)      # the recipe and data of the fine-tuned arm
    probed.result       # top1, top5, mean_per_class, loss, seconds, images_seen, seed ... as a
                        # run's result object has them, and knn_top1, embedding, C ...
    probed.correct      # (N,) bool, in the order of inputs.test: pairs with the other arms
    probed.predictions  # StoredPredictions of the logistic regression, joined by image id

It is deterministic: one seed is enough. `seconds` counts features that were kept by the time
that they had taken, so that it says what the arm costs from nothing; `seconds_now` is this call.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deit_transfer.analysis.probe import (
    LogisticProbe,
    NeighborProbe,
    logistic_probe,
    neighbor_probe,
)
from deit_transfer.analysis.statistics import wilson_interval
from deit_transfer.data.dataset import ImageSet, Progress, join
from deit_transfer.data.splits import carve_val
from deit_transfer.engine.inference import Predictions
from deit_transfer.engine.precision import (
    Precision,
    choose_attention,
    resolve_device,
    resolve_precision,
)
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError, UsageError
from deit_transfer.evaluation.features import Features, extract_features, features_folder
from deit_transfer.evaluation.load_model import is_run_path, read_model_weights
from deit_transfer.models.checkpoint_adaptation import LoadReport
from deit_transfer.models.classifier import (
    Classifier,
    head_names,
    is_head_key,
    set_attention,
)
from deit_transfer.models.pretrained import IMAGENET, PretrainedWeights, read_pretrained
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import (
    PREDICTIONS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    create_run_folder,
    open_run,
)
from deit_transfer.runs.predictions import (
    StoredPredictions,
    predictions_to_store,
    write_predictions,
)
from deit_transfer.training import build
from deit_transfer.training.choose_recipe import choose_recipe
from deit_transfer.training.data_splits import DataSplits, load_splits
from deit_transfer.training.final_eval import score_facts
from deit_transfer.training.label_overlap import label_overlap_notes

# held out for the choice where a recipe holds nothing out: the schema's own default
CARVED = 0.1
GO_ON = "Features computed so far are kept: run the same command again to go on"


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """Both probes of one embedding of D dimensions."""

    name: str
    dimensions: int
    logistic: LogisticProbe
    neighbors: NeighborProbe
    predictions: Predictions
    knn_top1: float
    knn_interval: list[float]

    def facts(self, test: ImageSet) -> dict[str, Any]:
        """Return the row as plain values, in percent."""
        scored = score_facts(self.predictions, test)
        return {
            "embedding": self.name,
            "dimensions": self.dimensions,
            "top1": scored["top1"],
            "top1_ci95": scored["top1_ci95"],
            "val_top1": self.logistic.val_top1,
            "C": self.logistic.c,
            "C_tried": [list(pair) for pair in self.logistic.tried.items()],
            "knn_top1": self.knn_top1,
            "knn_top1_ci95": self.knn_interval,
            "knn_val_top1": self.neighbors.val_top1,
            "k": self.neighbors.k,
            "votes": self.neighbors.weighing,
        }


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The result of a probe; see the top of the module."""

    result: dict[str, Any]
    correct: NDArray[np.bool_]
    predictions: StoredPredictions


def probe(
    subject: str,
    dataset: str,
    *,
    resolution: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Probe a network's frozen features on a dataset and return the result object.

    Args:
        subject: A finished run's folder, a network's name with its published weights, or
            MODEL=START, as in deit_tiny_patch16_224=weights.safetensors.
        dataset: Catalog name or folder; split as `finetune` with the same settings splits it.
        resolution: Pixels a side; None takes the network's own.
        overrides: Settings of the dataset's fine-tuning recipe, by dotted location; those of
            data, seed, crop and place count here.
        cache: Folder that keeps features; None takes the user's cache.
        out: Folder to make for the result and the predictions on test.
        progress: Called with the images computed so far and those to compute.

    Raises:
        UsageError: `out` exists, the subject is no network, or a setting cannot be.
        DataError: The dataset cannot be used.
        CheckpointError: The weights cannot be read.
        StoppedError: A signal arrived.
    """
    asked = _read_subject(subject)
    recipe = choose_recipe(
        "finetune",
        dataset,
        # what it starts from is read here; the recipe only needs to know that there is something
        start=IMAGENET,
        overrides={
            "model.name": asked.name,
            "model.resolution": resolution or asked.resolution,
            **(overrides or {}),
        },
    )
    if out is not None and out.exists():
        raise UsageError(f"{out} exists already", hint="Give the result another --out")
    splits = load_splits(recipe.data)
    probed = probe_arm(recipe, splits, asked.start, cache=cache, progress=progress)
    result = {"subject": subject, **probed.result}
    weights = subject.partition("=")[2] or subject
    result["notes"] = [*result["notes"], *label_overlap_notes(weights, asked.start, splits)]
    if out is not None:
        folder = create_run_folder(out.parent, out.name)
        write_predictions(folder.path / PREDICTIONS_FILE, probed.predictions)
        folder.write_json(RESULT_FILE, result)
    return result


def probe_arm(
    recipe: Recipe,
    splits: DataSplits,
    start: PretrainedWeights,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> ProbeResult:
    """Probe the network that a recipe would fine-tune, on the same images.

    Args:
        recipe: Its model, evaluation crop, seed and place count; nothing is trained.
        inputs: The splits. Without validation images, some are carved off for the choice of
            settings; no test image ever takes part in it.
        start: The weights.
        cache: Folder that keeps features; None takes the user's cache.
        progress: Called with the images computed so far and those to compute.
    """
    began = time.monotonic()
    if len(np.unique(splits.train.labels)) < 2:
        raise DataError(
            f"{splits.name} has only one class",
            hint="Give a folder with one folder for each of two classes or more",
        )
    device = resolve_device(recipe.run.device)
    precision = resolve_precision(recipe.run.precision, device)
    classifier, report = _network(recipe, start, device, precision)
    train, val, how = _splits_to_choose_on(splits, recipe)
    with StopSignals(hint=GO_ON) as stop:
        features = extract_features(
            classifier,
            join([train, val, splits.test]),
            recipe=recipe,
            device=device,
            precision=precision,
            folder=cache or features_folder(),
            stop=stop,
            progress=progress,
        )
        fits_began = time.monotonic()
        rows = [
            _fit(name, values, train, val, splits=splits, stop=stop)
            for name, values in _named_embeddings(features).items()
        ]
    ended = time.monotonic()
    best = max(rows, key=lambda row: (row.logistic.val_top1, -row.logistic.val_loss))
    result = {
        "mode": "probe",
        "dataset": splits.name,
        "model": recipe.model.name,
        "pretrained": start.origin,
        "seed": recipe.run.seed,
        "headline": recipe.data.headline,
        **_chosen_facts(rows, best, splits.test),
        "selected_on": how,
        **_cost(features, seconds_now=ended - began, fit_seconds=ended - fits_began),
        "images_seen": len(train) + len(val),
        "epochs": 1,
        "cache": str(cache or features_folder()),
        "resolution": classifier.resolution,
        "counts": {"train": len(train), "val": len(val), "test": len(splits.test)},
        "data_fingerprint": splits.fingerprint,
        "notes": [*splits.dataset.notes, *_notes(report, classifier, rows)],
        "device": str(device),
        "precision": precision.name,
    }
    stored = predictions_to_store(best.predictions, splits.test)
    return ProbeResult(
        result=result, correct=stored.decisions() == stored.labels, predictions=stored
    )


class _ProbedModel(NamedTuple):
    """A network's name and weights and, for a run, its resolution."""

    name: str
    start: PretrainedWeights
    resolution: int | None = None


def _read_subject(text: str) -> _ProbedModel:
    """Read what `probe` is asked about; see its `subject`."""
    if Path(text).is_dir() and is_run_path(text):
        folder = open_run(text)
        model = load_recipe(str(folder.path / RECIPE_FILE)).model
        start = read_pretrained(str(folder.path), model_name=model.name)
        return _ProbedModel(model.name, start, model.resolution)
    return _ProbedModel(*read_model_weights(text))


def _network(
    recipe: Recipe, start: PretrainedWeights, device: torch.device, precision: Precision
) -> tuple[Classifier, LoadReport | None]:
    """Build the network as fine-tuning would, to be asked and never trained."""
    classifier, report = build.network(recipe, ("unused", "head"), start, device)
    asked = recipe.run.attention
    set_attention(classifier, choose_attention(precision) if asked == "auto" else asked)
    return classifier.eval(), report


def _splits_to_choose_on(splits: DataSplits, recipe: Recipe) -> tuple[ImageSet, ImageSet, str]:
    """Return the images that are fitted, those that choose, and what the latter are called."""
    if splits.val is not None:
        return splits.train, splits.val, "val"
    settings, labels = recipe.data, splits.train.labels
    share = min(CARVED, settings.val_limit / len(labels))
    stay, held = carve_val(labels, fraction=share, seed=settings.split_seed)
    return splits.train.subset(stay), splits.train.subset(held), "part of train"


def _named_embeddings(features: Features) -> dict[str, NDArray[np.float32]]:
    """Return what each probe reads (N, its embeddings x D)."""
    return {
        name: features.values[:, list(places)].reshape(len(features.values), -1)
        for name, places in features.named.items()
    }


def _fit(
    name: str,
    values: NDArray[np.float32],
    train: ImageSet,
    val: ImageSet,
    *,
    splits: DataSplits,
    stop: StopSignals,
) -> ProbeRow:
    own, held_out, test = np.split(values, [len(train), len(train) + len(val)])
    if not (np.isfinite(own).all() and np.isfinite(held_out).all()):
        raise DataError(
            "some of the training or validation images cannot be read",
            hint="deit-transfer data check DATASET lists them; remove or fix them",
        )
    readable: NDArray[np.bool_] = np.asarray(np.isfinite(test).all(axis=1))  # (N,)
    given: dict[str, Any] = {
        "train": own,
        "train_labels": train.labels,
        "val": held_out,
        "val_labels": val.labels,
        # an image that cannot be read is asked about as any number, and then counted as wrong
        "test": np.where(readable[:, None], test, 0.0).astype(np.float32),
        "num_classes": len(splits.class_names),
    }
    logistic = logistic_probe(**given, tick=stop.check)
    stop.check()
    neighbors = neighbor_probe(**given)
    right = (neighbors.votes.argmax(axis=1) == splits.test.labels) & readable
    interval = wilson_interval(int(right.sum()), len(right))
    return ProbeRow(
        name=name,
        dimensions=values.shape[1],
        logistic=logistic,
        neighbors=neighbors,
        predictions=Predictions(
            indices=torch.arange(len(test)),
            labels=torch.from_numpy(splits.test.labels),
            class_logits=torch.from_numpy(
                np.where(readable[:, None], logistic.logits, np.nan).astype(np.float32)
            ),
            distill_logits=None,
        ),
        knn_top1=100 * float(right.mean()),
        knn_interval=[interval.low, interval.high],
    )


def _chosen_facts(rows: Sequence[ProbeRow], best: ProbeRow, test: ImageSet) -> dict[str, Any]:
    """Return the scores of both probes, each of the embedding that validation prefers for it."""
    nearest = max(rows, key=lambda row: row.neighbors.val_top1)
    return {
        **score_facts(best.predictions, test),
        "embedding": best.name,
        "C": best.logistic.c,
        "val_top1": best.logistic.val_top1,
        "knn_top1": nearest.knn_top1,
        "knn_top1_ci95": nearest.knn_interval,
        "knn_embedding": nearest.name,
        "k": nearest.neighbors.k,
        "votes": nearest.neighbors.weighing,
        "knn_val_top1": nearest.neighbors.val_top1,
        "embeddings": [row.facts(test) for row in rows],
    }


def _cost(features: Features, *, seconds_now: float, fit_seconds: float) -> dict[str, Any]:
    """Return what the probe takes from nothing, and what of it was done now."""
    feature_seconds = features.seconds + features.kept_seconds
    return {
        "seconds": seconds_now + features.kept_seconds,
        "seconds_now": seconds_now,
        "feature_seconds": feature_seconds,
        "fit_seconds": fit_seconds,
        "images_per_second": len(features.values) / max(feature_seconds, 1e-9),
        "features_computed": features.computed,
        "features_kept": len(features.values) - features.computed,
    }


def _notes(report: LoadReport | None, classifier: Classifier, rows: list[ProbeRow]) -> list[str]:
    """Return notes: random parts of the network, and searches that ended at an edge."""
    notes = []
    heads = head_names(classifier.backbone)
    drawn = [
        item.key
        for item in (report.items if report is not None else ())
        if item.action == "initialized" and not is_head_key(item.key, heads)
    ]
    if report is None:
        notes.append("the network has random weights")
    if drawn:
        notes.append(f"the weights lack {', '.join(drawn)}: drawn at random")
    for row in rows:
        if row.logistic.at_edge:
            notes.append(f"{row.name}: the best C is the last one tried, {row.logistic.c:g}")
        if not row.logistic.converged:
            notes.append(f"{row.name}: logistic regression stopped before it had converged")
    return notes
