"""Probe: how good frozen features are on a dataset, before any training.

The features of every image are computed once and kept (`evaluation/features.py`); logistic
regression and nearest neighbors are fitted to those of all labeled images, choose their settings on
folds of them, and classify the test images once.

As an arm of a comparison:

    probed = probe_arm(recipe, splits, start)      # the recipe and data of the fine-tuned arm
    probed.result       # the facts that a run's result object has, and knn_top1, embedding, C ...
    probed.correct      # (N,) bool, in the order of splits.test: pairs with the other arms
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
    make_folds,
    neighbor_probe,
)
from deit_transfer.analysis.statistics import wilson_interval
from deit_transfer.data.dataset import ImageSet, Progress, join
from deit_transfer.engine.inference import Predictions
from deit_transfer.engine.precision import (
    Precision,
    choose_attention,
    resolve_device,
    resolve_precision,
)
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError
from deit_transfer.evaluation.features import Features, extract_features, features_folder
from deit_transfer.evaluation.load_model import is_run_path, read_model_weights
from deit_transfer.models.checkpoint_adaptation import LoadReport
from deit_transfer.models.classifier import (
    Classifier,
    head_names,
    is_head_key,
    set_attention,
)
from deit_transfer.models.pretrained import (
    IMAGENET,
    PretrainedWeights,
    read_pretrained,
    write_model_files,
)
from deit_transfer.recipe.loader import dump_recipe, load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.environment import describe_environment
from deit_transfer.runs.folder import (
    ENVIRONMENT_FILE,
    PREDICTIONS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    create_named_folder,
    open_run,
    refuse_taken_name,
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
from deit_transfer.training.head_start import linear_heads, set_head
from deit_transfer.training.label_overlap import label_overlap_notes
from deit_transfer.training.resume import record_data

GO_ON = "Features computed so far are kept: run the same command again to go on"


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """Both probes of one embedding of D dimensions."""

    name: str
    dimensions: int
    logistic: LogisticProbe
    neighbors: NeighborProbe
    logits: NDArray[np.float32]
    knn_top1: float
    knn_interval: list[float]

    def facts(self, test: ImageSet) -> dict[str, Any]:
        """Return the row as plain values, in percent."""
        scored = score_facts(_predictions(self.logits, test=test), test)
        return {
            "embedding": self.name,
            "dimensions": self.dimensions,
            "top1": scored["top1"],
            "top1_ci95": scored["top1_ci95"],
            "fold_top1": self.logistic.fold_top1,
            "C": self.logistic.c,
            "C_tried": [list(pair) for pair in self.logistic.tried.items()],
            "knn_top1": self.knn_top1,
            "knn_top1_ci95": self.knn_interval,
            "knn_fold_top1": self.neighbors.fold_top1,
            "k": self.neighbors.k,
            "votes": self.neighbors.weighing,
        }


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The result of a probe; see the top of the module.

    `classifier` is the network with the logistic regression as its head, or heads;
    `head_predictions` on test are its own. They are those of `predictions` where the best row is
    one that a head reads.
    """

    result: dict[str, Any]
    correct: NDArray[np.bool_]
    predictions: StoredPredictions
    classifier: Classifier
    head_predictions: Predictions


def probe(
    subject: str,
    dataset: str,
    *,
    resolution: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    out: Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Probe a network's frozen features on a dataset and return the result object.

    With `out`, the network with the logistic regression as its head becomes an ordinary run.

    Args:
        subject: A finished run's folder, a network's name with its published weights, or
            MODEL=START, as in deit_tiny_patch16_224=weights.safetensors.
        dataset: Catalog name or folder; split as `finetune` with the same settings splits it.
        resolution: Pixels a side; None takes the network's own.
        overrides: Settings of the dataset's fine-tuning recipe, by dotted location; those of
            data, seed, crop and place count here.
        cache: Folder that keeps features; None takes the user's cache.
        out: Folder that holds the runs; None writes nothing.
        name: The run's folder below `out`; None makes one from dataset and model.
        progress: Called with the images computed so far and those to compute.

    Raises:
        UsageError: The name is taken, the subject is no network, or a setting cannot be.
        DataError: The dataset cannot be used.
        CheckpointError: The weights cannot be read.
        StoppedError: A signal arrived.
    """
    asked = _read_subject(subject)
    recipe = choose_recipe(
        "finetune",
        dataset,
        start=asked.pretrained,
        overrides={
            "model.name": asked.name,
            "model.resolution": resolution or asked.resolution,
            "model.freeze": "head",
            "model.head_start": "features",
            **(overrides or {}),
        },
    )
    if out is not None:
        refuse_taken_name(out, name, what="run")
    splits = load_splits(recipe.data)
    probed = probe_arm(recipe, splits, asked.start, cache=cache, progress=progress)
    result = {"subject": subject, **probed.result}
    weights = subject.partition("=")[2] or subject
    result["notes"] = [*result["notes"], *label_overlap_notes(weights, asked.start, splits)]
    if out is not None:
        _write_run(out, name, recipe, splits, probed, result)
    return result


def _write_run(
    out: Path,
    name: str | None,
    recipe: Recipe,
    splits: DataSplits,
    probed: ProbeResult,
    result: dict[str, Any],
) -> None:
    """Write the network with its fitted head as a run; name its folder in the result.

    The run's own score is that of its head, which reads the last class token alone.
    """
    automatic = f"{Path(recipe.data.dataset).name}/probe-{recipe.model.name}"
    folder = create_named_folder(out, name, automatic=automatic)
    result["run"] = str(folder)
    stored = predictions_to_store(probed.head_predictions, splits.test)
    folder.write_json(ENVIRONMENT_FILE, describe_environment())
    record_data(folder, splits)
    write_model_files(
        folder.path,
        probed.classifier,
        class_names=splits.class_names,
        crop_pct=build.evaluation_crop(recipe),
    )
    write_predictions(folder.path / PREDICTIONS_FILE, stored)
    folder.write_text(RECIPE_FILE, dump_recipe(recipe))
    own = score_facts(probed.head_predictions, splits.test)
    folder.write_json(RESULT_FILE, {**result, **own})
    folder.set_status("done")


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
        splits: The splits. Training and validation images are all labeled images here; no test
            image takes part in the choice of settings.
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
    classifier, report = _network(recipe, splits, start, device, precision)
    labeled = splits.train if splits.val is None else join([splits.train, splits.val])
    with StopSignals(hint=GO_ON) as stop:
        features = extract_features(
            classifier,
            join([labeled, splits.test]),
            recipe=recipe,
            device=device,
            precision=precision,
            folder=cache or features_folder(),
            stop=stop,
            progress=progress,
        )
        fits_began = time.monotonic()
        rows = [
            _fit(name, values, labeled, splits.test, len(splits.class_names), stop)
            for name, values in _named_embeddings(features).items()
        ]
    ended = time.monotonic()
    best = max(rows, key=_fold_score)
    result = {
        "mode": "probe",
        "dataset": splits.name,
        "model": recipe.model.name,
        "pretrained": start.origin,
        "seed": recipe.run.seed,
        "headline": recipe.data.headline,
        **_chosen_facts(rows, best, splits.test),
        "selected_on": "folds",
        "folds": len(make_folds(labeled.labels)),
        **_cost(features, seconds_now=ended - began, fit_seconds=ended - fits_began),
        "images_seen": len(labeled),
        "epochs": 1,
        "cache": str(cache or features_folder()),
        "resolution": classifier.resolution,
        "counts": {"train": len(labeled), "test": len(splits.test)},
        "data_fingerprint": splits.fingerprint,
        "notes": [*splits.dataset.notes, *_notes(report, classifier, rows)],
        "device": str(device),
        "precision": precision.name,
    }
    stored = predictions_to_store(_predictions(best.logits, test=splits.test), splits.test)
    return ProbeResult(
        result=result,
        correct=stored.decisions() == stored.labels,
        predictions=stored,
        classifier=_with_heads(classifier, rows),
        head_predictions=_head_predictions(classifier, rows, splits.test),
    )


class _ProbedModel(NamedTuple):
    """A network's name and weights, where they come from and, for a run, its resolution."""

    name: str
    start: PretrainedWeights
    pretrained: str
    resolution: int | None = None


def _read_subject(text: str) -> _ProbedModel:
    """Read what `probe` is asked about; see its `subject`."""
    if Path(text).is_dir() and is_run_path(text):
        folder = open_run(text)
        model = load_recipe(str(folder.path / RECIPE_FILE)).model
        start = read_pretrained(str(folder.path), model_name=model.name)
        return _ProbedModel(model.name, start, str(folder.path), model.resolution)
    name, start = read_model_weights(text)
    return _ProbedModel(name, start, IMAGENET if name == text else text.partition("=")[2] or text)


def _network(
    recipe: Recipe,
    splits: DataSplits,
    start: PretrainedWeights,
    device: torch.device,
    precision: Precision,
) -> tuple[Classifier, LoadReport | None]:
    """Build the network as fine-tuning would, to be asked and never trained."""
    classifier, report = build.network(recipe, splits.class_names, start, device)
    asked = recipe.run.attention
    set_attention(classifier, choose_attention(precision) if asked == "auto" else asked)
    return classifier.eval(), report


def _head_rows(classifier: Classifier, rows: Sequence[ProbeRow]) -> list[ProbeRow]:
    """Return the rows whose embedding a head reads, in the order of the heads."""
    return list(rows[: len(linear_heads(classifier))])


def _with_heads(classifier: Classifier, rows: Sequence[ProbeRow]) -> Classifier:
    """Put the logistic regressions into the network's heads."""
    for head, row in zip(linear_heads(classifier), _head_rows(classifier, rows), strict=True):
        set_head(head, row.logistic.weight, row.logistic.bias)
    return classifier


def _head_predictions(
    classifier: Classifier, rows: Sequence[ProbeRow], test: ImageSet
) -> Predictions:
    return _predictions(*(row.logits for row in _head_rows(classifier, rows)), test=test)


def _fold_score(row: ProbeRow) -> tuple[float, float]:
    """Return what rows are compared by; where nothing could be held out, none is better."""
    top1, loss = np.nan_to_num([row.logistic.fold_top1, row.logistic.fold_loss])
    return float(top1), -float(loss)


def _named_embeddings(features: Features) -> dict[str, NDArray[np.float32]]:
    """Return what each probe reads (N, its embeddings x D)."""
    return {
        name: features.values[:, list(places)].reshape(len(features.values), -1)
        for name, places in features.named.items()
    }


def _fit(
    name: str,
    values: NDArray[np.float32],
    labeled: ImageSet,
    test: ImageSet,
    num_classes: int,
    stop: StopSignals,
) -> ProbeRow:
    known, asked = np.split(values, [len(labeled)])
    if not np.isfinite(known).all():
        raise DataError(
            "some of the training or validation images cannot be read",
            hint="deit-transfer data check DATASET lists them; remove or fix them",
        )
    readable: NDArray[np.bool_] = np.asarray(np.isfinite(asked).all(axis=1))  # (N,)
    # an image that cannot be read is asked about as any number, and then counted as wrong
    asked = np.where(readable[:, None], asked, 0.0).astype(np.float32)
    logistic = logistic_probe(known, labeled.labels, num_classes=num_classes, tick=stop.check)
    stop.check()
    neighbors = neighbor_probe(known, labeled.labels, asked, num_classes=num_classes)
    right = (neighbors.votes.argmax(axis=1) == test.labels) & readable
    interval = wilson_interval(int(right.sum()), len(right))
    logits = np.where(readable[:, None], logistic.logits(asked), np.nan)
    return ProbeRow(
        name=name,
        dimensions=values.shape[1],
        logistic=logistic,
        neighbors=neighbors,
        logits=logits.astype(np.float32),
        knn_top1=100 * float(right.mean()),
        knn_interval=[interval.low, interval.high],
    )


def _predictions(*logits: NDArray[np.float32], test: ImageSet) -> Predictions:
    """Return the predictions of one head (N, K), or of a class and a distillation head."""
    class_logits, *more = (torch.from_numpy(values) for values in logits)
    return Predictions(
        indices=torch.arange(len(test)),
        labels=torch.from_numpy(test.labels),
        class_logits=class_logits,
        distill_logits=more[0] if more else None,
    )


def _chosen_facts(rows: Sequence[ProbeRow], best: ProbeRow, test: ImageSet) -> dict[str, Any]:
    """Return the scores of both probes, each of the embedding that validation prefers for it."""
    nearest = max(rows, key=lambda row: row.neighbors.fold_top1)
    return {
        **score_facts(_predictions(best.logits, test=test), test),
        "embedding": best.name,
        "C": best.logistic.c,
        "fold_top1": best.logistic.fold_top1,
        "knn_top1": nearest.knn_top1,
        "knn_top1_ci95": nearest.knn_interval,
        "knn_embedding": nearest.name,
        "k": nearest.neighbors.k,
        "votes": nearest.neighbors.weighing,
        "knn_fold_top1": nearest.neighbors.fold_top1,
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
