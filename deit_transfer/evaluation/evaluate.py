"""Evaluate a run on its own images, or a run or network by name on any datasets.

Nothing is chosen here: whatever is fitted is fitted on validation images, and said so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.analysis.statistics import mcnemar
from deit_transfer.data.dataset import ImageSet, Progress, Split
from deit_transfer.engine.inference import Predictions
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import UsageError
from deit_transfer.evaluation.eval_splits import (
    EvalSplit,
    fitting_images,
    named_split,
    split_of_run,
    splits_of_run,
)
from deit_transfer.evaluation.metrics import (
    SplitPredictions,
    Temperature,
    calibration_facts,
    fit,
    head_facts,
    long_tail_facts,
    per_class_facts,
    super_category_facts,
)
from deit_transfer.evaluation.outputs import check_folder, write_evaluation
from deit_transfer.evaluation.predictor import Predictor, check_heads, open_predictor, predictor_at
from deit_transfer.models.test_time_augmentation import NUM_VIEWS, Views
from deit_transfer.paper.comparable import paper_beside
from deit_transfer.training.data_splits import DataSplits
from deit_transfer.training.final_eval import score_facts

KEPT = ("mode", "model", "pretrained", "seed", "epochs", "images_seen", "weights")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of an evaluation; see `evaluate`."""

    views: Views
    resolutions: tuple[int, ...]
    heads: tuple[str, ...]
    per_class: bool
    out: Path | None


def evaluate(
    subject: Path | str,
    *dataset_names: str,
    overrides: dict[str, Any] | None = None,
    split: Split = "test",
    views: Views = "one",
    resolutions: Sequence[int] = (),
    heads: Sequence[str] = (),
    per_class: bool = False,
    temperature: bool | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a network and return the result object; with several datasets one object for each.

    Args:
        subject: A finished run's folder, `MODEL`, or `MODEL=WEIGHTS`.
        dataset_names: Catalog names, addresses or folders; none scores a run's own images.
        overrides: Recipe settings of place and precision, by dotted location.
        split: Which images: `val` to choose something by the figures, `test` to report them.
        views: Views of each image whose probabilities are averaged.
        resolutions: Pixels a side at which the network is scored as well.
        heads: Heads whose figures are given in full.
        per_class: Give the figures of every class, and the classes confused most.
        temperature: Fit one on the run's own validation images; None fits it where the run's own
            test images are scored.
        out: Folder for the confusion matrix, the reliability diagram and the predictions.
        progress: Called with the (images answered, images) of all that is asked for.

    Raises:
        UsageError: The network has no images of its own, or not the heads or resolution asked for;
            or `out` is the folder of a run.
        DataError: There is no such run or split, or a dataset has classes it never saw.
    """
    doubled = [name for name in dataset_names if dataset_names.count(name) > 1]
    if doubled:
        raise UsageError(f"{doubled[0]} is given twice", hint="Name each dataset once")
    if out is not None:
        check_folder(out)
    predictor = open_predictor(str(subject), overrides=overrides)
    check_heads(predictor, tuple(heads))
    wanted = EvaluationOptions(
        views=views,
        resolutions=tuple(resolutions),
        heads=tuple(heads),
        per_class=per_class,
        out=out,
    )
    for resolution in (None, *wanted.resolutions):  # what cannot be asked shows before any work
        predictor_at(predictor, resolution=resolution, views=views)
    with StopSignals(hint="") as stop:
        wants_fit = not dataset_names if temperature is None else temperature
        own = splits_of_run(predictor, named=bool(dataset_names), needed=wants_fit, stop=stop)
        targets = [named_split(predictor, name, split, own, stop) for name in dataset_names]
        if not dataset_names:
            targets = [split_of_run(predictor, own, split)]
        notes: list[str] = []
        val = fitting_images(own, split=split, notes=notes) if wants_fit else None
        evaluation = _Evaluation(
            predictor, stop, _images_asked(predictor, targets, val, wanted), progress
        )
        # ---- fit on validation, then score
        fitted = None
        if val is not None and own is not None:
            scored = SplitPredictions.on(evaluation.predict(val, None, views), val)
            words = f"{len(val):,} validation images of {own.name}"
            fitted = fit(scored, fitted_on=words)
        results = [_score(evaluation, target, wanted, own, fitted, notes) for target in targets]
        if out is not None:
            prefixes = _prefixes([target.title for target in targets])
            for result, prefix, answers in zip(results, prefixes, evaluation.kept, strict=True):
                result["files"] = write_evaluation(
                    out, result, answers, predictor.class_names, fitted, prefix=prefix
                )
    if len(results) == 1:
        return results[0]
    shared = ("run", *KEPT, "split", "resolution", "views", "device", "precision")
    return {**{key: results[0][key] for key in shared}, "datasets": results}


def _prefixes(titles: Sequence[str]) -> list[str]:
    """Return what each dataset's files begin with; two of one title are told apart by a number."""
    if len(titles) == 1:
        return [""]
    twice = {title for title in titles if titles.count(title) > 1}
    return [
        f"{title}-{titles[:place].count(title) + 1}-" if title in twice else f"{title}-"
        for place, title in enumerate(titles)
    ]


class _Evaluation:
    """The evaluation of one network, counting images for the progress bar."""

    def __init__(
        self, predictor: Predictor, stop: StopSignals, total: int, progress: Progress | None
    ) -> None:
        self.predictor = predictor
        self.kept: list[SplitPredictions] = []
        self._stop = stop
        self._total = total
        self._done = 0
        self._progress = progress

    def predict(self, images: ImageSet, resolution: int | None, views: Views) -> Predictions:
        """Return the predictions on a split."""
        asked = predictor_at(self.predictor, resolution=resolution, views=views)
        num_views = NUM_VIEWS[views]

        def count(done: int, _images: int) -> None:
            if self._progress is not None:
                self._progress(self._done + num_views * done, self._total)

        batches = asked.batches(images, stop=self._stop)
        predictions = asked.predict(batches, stop=self._stop, progress=count)
        self._done += num_views * len(images)
        return predictions


def _score(
    evaluation: _Evaluation,
    target: EvalSplit,
    wanted: EvaluationOptions,
    own: DataSplits | None,
    fitted: Temperature | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the result object of one split."""
    predictor = evaluation.predictor
    predictions = evaluation.predict(target.images, None, wanted.views)
    scored = SplitPredictions.on(predictions, target.images)
    if wanted.out is not None:
        evaluation.kept.append(scored)
    resolution = predictor.subject.classifier.resolution
    recorded = predictor.result()
    result: dict[str, Any] = {
        "run": predictor.text,
        "dataset": target.title,
        **(_described(predictor) | {key: recorded[key] for key in KEPT if key in recorded}),
        **score_facts(predictions, target.images),
        "headline": predictor.recipe.data.headline,
        "split": target.split,
        "resolution": resolution,
        "views": wanted.views,
        "calibration": calibration_facts(scored, fitted),
        "long_tail": long_tail_facts(scored, _train_counts(own, predictor)),
        "super_categories": super_category_facts(scored, target.group_of_class),
    }
    if wanted.heads:
        result["head_scores"] = head_facts(scored, wanted.heads)
    if wanted.per_class:
        result |= per_class_facts(scored, predictor.class_names)
    if wanted.views != "one":
        result["against_one_view"] = _against_one_view(evaluation, target, scored)
    if wanted.resolutions:
        result["resolutions"] = _sweep(evaluation, target, wanted, scored)
    if wanted.views == "one" and target.split == "test":
        result |= paper_beside(
            target.name,
            model=result["model"],
            mode=result["mode"] or "",
            resolution=resolution,
            is_run=predictor.is_run,
            trained_on=predictor.recipe.data.dataset,
            start=str(result["pretrained"] or ""),
        )
    result["notes"] = [*predictor.notes, *target.notes, *notes]
    result |= {"device": str(predictor.device), "precision": predictor.precision.name}
    return result


def _described(predictor: Predictor) -> dict[str, Any]:
    """Return what there is to say of a network that no run recorded."""
    described: dict[str, Any] = dict.fromkeys(KEPT)
    if not predictor.is_run:
        start = predictor.text.partition("=")[2] or "imagenet"
        described |= {"model": predictor.subject.classifier.name, "pretrained": start}
    return described


def _sweep(
    evaluation: _Evaluation,
    target: EvalSplit,
    wanted: EvaluationOptions,
    scored: SplitPredictions,
) -> list[dict[str, Any]]:
    """Return the figures at each resolution, the network's own among them, smallest first."""
    own = evaluation.predictor.subject.classifier.resolution
    rows = []
    for resolution in sorted({own, *wanted.resolutions}):
        other = scored
        if resolution != own:
            predictions = evaluation.predict(target.images, resolution, wanted.views)
            other = SplitPredictions.on(predictions, target.images)
        row: dict[str, Any] = {"resolution": resolution, "own": resolution == own}
        row |= head_facts(other, ("joint",))["joint"]
        if resolution != own:
            row["against_own"] = _paired(other, scored)
        rows.append(row)
    return rows


def _against_one_view(
    evaluation: _Evaluation, target: EvalSplit, averaged: SplitPredictions
) -> dict[str, Any]:
    """Return the top-1 of a single view, and what the average gained over it."""
    single = SplitPredictions.on(evaluation.predict(target.images, None, "one"), target.images)
    right = single.decisions() == single.labels()
    return {"top1": 100 * float(right.mean()), **_paired(averaged, single)}


def _paired(first: SplitPredictions, second: SplitPredictions) -> dict[str, Any]:
    """Return first minus second in points over the same images, with interval and p-value."""
    hits = [one.decisions() == one.labels() for one in (first, second)]
    found = mcnemar(*hits)
    return {
        "difference": found.mean,
        "difference_ci95": [found.low, found.high],
        "p_value": found.p_value,
    }


def _images_asked(
    predictor: Predictor,
    targets: Sequence[EvalSplit],
    val: ImageSet | None,
    wanted: EvaluationOptions,
) -> int:
    """Return how many views all that is asked for will look at."""
    views = NUM_VIEWS[wanted.views]
    others = {*wanted.resolutions} - {predictor.subject.classifier.resolution}
    passes = views * (1 + len(others)) + (wanted.views != "one")
    count = sum(len(target.images) for target in targets) * passes
    return count + (len(val) * views if val is not None else 0)


def _train_counts(own: DataSplits | None, predictor: Predictor) -> NDArray[np.int64] | None:
    """Return the training images of each class (K,), where the run's own images were loaded."""
    if own is None:
        return None
    return np.bincount(own.train.labels, minlength=len(predictor.class_names))
