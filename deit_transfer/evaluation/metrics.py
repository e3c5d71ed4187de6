"""Metrics of a scored split beyond accuracy: calibration, class groups, single classes.

Shapes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deit_transfer.analysis.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    NUM_BINS,
    calibration,
    fit_temperature,
    reliability,
    tempered,
)
from deit_transfer.analysis.class_groups import (
    group_top1,
    has_hierarchy,
    long_tail,
    super_categories,
)
from deit_transfer.analysis.per_class import (
    Confusion,
    average_scores,
    class_scores,
    confusion,
    worst_mistakes,
)
from deit_transfer.analysis.statistics import wilson_interval
from deit_transfer.data.dataset import ImageSet
from deit_transfer.engine.inference import Predictions, likeliest_correct, scores
from deit_transfer.runs.predictions import UNDECIDED, StoredPredictions, predictions_to_store

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """A fitted temperature, and a description of the images it was fitted on."""

    value: float
    fitted_on: str


@dataclass(frozen=True, kw_only=True)
class SplitPredictions:
    """Predictions on a split; with several correct labels any counts, as in ReaL."""

    stored: StoredPredictions
    right: NDArray[np.bool_] | None

    @classmethod
    def on(cls, predictions: Predictions, images: ImageSet) -> "SplitPredictions":
        right = None
        if images.label_sets is not None:
            mask = images.label_sets.mask(predictions.class_logits.shape[1])
            right = mask[predictions.indices.numpy()]  # (N, K)
        return cls(stored=predictions_to_store(predictions, images), right=right)

    def labels(self, head: str = "joint") -> NDArray[np.int64]:
        """Return the labels (N,) that a head is scored by: its likeliest of the right ones."""
        if self.right is None:
            return self.stored.labels
        probabilities = torch.from_numpy(self.stored.probabilities(head))
        return likeliest_correct(probabilities, torch.from_numpy(self.right)).numpy()

    def decisions(self, head: str = "joint") -> NDArray[np.int64]:
        return self.stored.decisions(head)

    def readable(self) -> NDArray[np.bool_]:
        """Return which images (N,) could be read."""
        return self.stored.decisions() != UNDECIDED

    def logits(self, head: str = "joint") -> list[NDArray[np.float32]]:
        """Return the logits (N, K) whose softmaxes are averaged: of one head, or of both."""
        if head == "distill" and self.stored.distill_logits is not None:
            return [self.stored.distill_logits]
        if head == "joint" and self.stored.distill_logits is not None:
            return [self.stored.class_logits, self.stored.distill_logits]
        return [self.stored.class_logits]


def fit(scored: SplitPredictions, *, fitted_on: str) -> Temperature | None:
    """Fit a temperature on these images, never those that are scored; None where none is readable.

    Args:
        scored: Predictions on validation images.
        fitted_on: A description of these images.
    """
    readable = scored.readable()
    if not readable.any():
        return None
    logits = [one[readable] for one in scored.logits()]
    value = fit_temperature(logits, scored.labels()[readable])
    if not MIN_TEMPERATURE * 1.01 < value < MAX_TEMPERATURE / 1.01:
        fitted_on += "; the range searched ends there"
    return Temperature(value=value, fitted_on=fitted_on)


def calibration_facts(scored: SplitPredictions, temperature: Temperature | None) -> dict[str, Any]:
    """Return ECE, NLL and Brier score, as they are and, where one was fitted, at a temperature."""
    readable = scored.readable()
    facts: dict[str, Any] = {"num_bins": NUM_BINS, "num_images": int(readable.sum())}
    measures = ("ece", "nll", "brier")
    if not readable.any():
        return facts | dict.fromkeys(measures) | {"temperature": None}
    labels = scored.labels()[readable]
    found = calibration(scored.stored.probabilities()[readable], labels)
    facts |= {name: getattr(found, name) for name in measures}
    facts["temperature"] = None
    if temperature is not None:
        scaled = tempered([one[readable] for one in scored.logits()], temperature.value)
        mended = calibration(scaled, labels)
        facts |= {"temperature": temperature.value, "fitted_on": temperature.fitted_on}
        facts |= {f"{name}_scaled": getattr(mended, name) for name in measures}
    return facts


def reliability_rows(scored: SplitPredictions, temperature: Temperature | None) -> dict[str, Rows]:
    """Return the bins of a reliability diagram, by the probabilities that they are of."""
    readable = scored.readable()
    labels = scored.labels()[readable]
    kinds: dict[str, NDArray[Any]] = {"as it is": scored.stored.probabilities()[readable]}
    if temperature is not None:
        logits = [one[readable] for one in scored.logits()]
        kinds[f"at temperature {temperature.value:.2f}"] = tempered(logits, temperature.value)
    return {
        name: [one._asdict() for one in reliability(probabilities, labels)]
        for name, probabilities in kinds.items()
    }


def head_facts(scored: SplitPredictions, heads: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return all metrics of each head, in percent."""
    named = {}
    readable = scored.readable()
    for head in heads:
        probabilities, labels = scored.stored.probabilities(head), scored.labels(head)
        metrics = scores(torch.from_numpy(probabilities), torch.from_numpy(labels))
        interval = wilson_interval(round(metrics.top1 * metrics.n / 100), metrics.n)
        found = calibration(probabilities[readable], labels[readable]) if readable.any() else None
        named[head] = {
            "top1": metrics.top1,
            "top1_ci95": [interval.low, interval.high],
            "top5": metrics.top5,
            "mean_per_class": metrics.mean_per_class,
            "loss": metrics.loss,
            "ece": None if found is None else found.ece,
        }
    return named


def long_tail_facts(
    scored: SplitPredictions, train_counts: NDArray[np.int64] | None
) -> dict[str, Any] | None:
    """Return the accuracy of classes with many, medium and few training images, where known."""
    if train_counts is None:
        return None
    found = long_tail(scored.decisions(), scored.labels(), train_counts)
    return {name: shot._asdict() for name, shot in found.items()}


def super_category_facts(
    scored: SplitPredictions, group_of_class: Sequence[str]
) -> dict[str, Any] | None:
    """Return the accuracy over super-categories, where the classes have such."""
    if not has_hierarchy([name for name in group_of_class if name]):
        return None
    rows = super_categories(scored.decisions(), scored.labels(), group_of_class)
    return {
        "num": len(rows),
        "top1": group_top1(rows),
        "groups": [row._asdict() for row in rows],
    }


def per_class_facts(scored: SplitPredictions, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of every class, their averages, and the classes confused most often."""
    decisions, labels = scored.decisions(), scored.labels()
    mistakes = worst_mistakes(confusion(decisions, labels, class_names))
    rows = class_scores(decisions, labels, class_names, scored.stored.probabilities())
    return {
        "per_class": [row._asdict() for row in rows],
        "averages": average_scores(decisions, labels)._asdict(),
        "confused": [row._asdict() for row in mistakes],
    }


def confusion_of(scored: SplitPredictions, class_names: Sequence[str]) -> Confusion:
    """Return the confusion matrix of the split."""
    return confusion(scored.decisions(), scored.labels(), class_names)
