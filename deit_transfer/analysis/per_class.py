"""Metrics per class, their averages, and the confusion matrix; all scikit-learn's.

Shapes: N images, K classes. A decision of -1 is that on an unreadable image, and wrong.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deit_transfer.analysis.statistics import wilson_interval

Labels = NDArray[np.int64]


class ClassScore(NamedTuple):
    """The metrics of one class against all others, in percent; `images` is its support.

    `auc` is the area under the ROC curve and `average_precision` that under precision and recall,
    by the class's probability; None without probabilities, and where all images are of the class.
    The intervals are Wilson's 95% of the shares of images that precision, recall and specificity
    are; of precision None where the class is never given.
    """

    name: str
    images: int
    precision: float
    recall: float
    f1: float
    specificity: float | None
    auc: float | None
    average_precision: float | None
    precision_ci95: tuple[float, float] | None
    recall_ci95: tuple[float, float]
    specificity_ci95: tuple[float, float] | None


class Confusion(NamedTuple):
    """The confusion matrix: true classes in rows, predicted classes in columns, (C, C) counts.

    `class_names` are the C classes that images are of, or were given, in label order.
    """

    class_names: tuple[str, ...]
    counts: NDArray[np.int64]


class Mistake(NamedTuple):
    """A pair of classes that was confused: images of `true` predicted as `given`."""

    true: str
    given: str
    images: int
    percent: float


def class_scores(
    decisions: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    probabilities: NDArray[np.floating[Any]] | None = None,
) -> list[ClassScore]:
    """Return scikit-learn's metrics over the classes that have images.

    A class that is never given has precision 0.

    Args:
        decisions: (N,) in -1..K-1.
        labels: (N,) in 0..K-1.
        class_names: K names.
        probabilities: (N, K); rows of unreadable images may be not a number, and count as 0.
    """
    from sklearn.metrics import precision_recall_fscore_support

    answers, right = np.asarray(decisions, np.int64), np.asarray(labels, np.int64)
    present = np.unique(right)
    precision, recall, f1, support = precision_recall_fscore_support(
        right, answers, labels=present, zero_division=0
    )
    rows = []
    for place, number in enumerate(present.tolist()):
        of_class, given = right == number, answers == number
        hits, others = int((of_class & given).sum()), int((~of_class).sum())
        refused = int((~of_class & ~given).sum())
        found = wilson_interval(hits, int(support[place]))
        ranked = None if probabilities is None else np.nan_to_num(probabilities[:, number])
        auc, average_precision = _ranking(of_class, ranked)
        rows.append(
            ClassScore(
                name=class_names[number],
                images=int(support[place]),
                precision=100 * float(precision[place]),
                recall=100 * float(recall[place]),
                f1=100 * float(f1[place]),
                specificity=100 * refused / others if others else None,
                auc=auc,
                average_precision=average_precision,
                precision_ci95=_share(hits, int(given.sum())),
                recall_ci95=(found.low, found.high),
                specificity_ci95=_share(refused, others),
            )
        )
    return rows


class AverageScores(NamedTuple):
    """Means over the classes that have images, and agreement beyond chance.

    Percent, but for Cohen's `kappa` and Matthews' correlation `mcc`, which are in -1..1. `macro`
    means over the classes that have images, `weighted` by how many; `micro` over all decisions,
    those for other classes and on unreadable images among them, where all three are the accuracy.
    Each has precision, recall and F1. `balanced_accuracy` is the macro recall.
    """

    macro: tuple[float, float, float]
    weighted: tuple[float, float, float]
    micro: tuple[float, float, float]
    balanced_accuracy: float
    kappa: float
    mcc: float


def average_scores(decisions: ArrayLike, labels: ArrayLike) -> AverageScores:
    """Return scikit-learn's averages of a split.

    Args:
        decisions: (N,) in -1..K-1.
        labels: (N,) in 0..K-1.
    """
    from sklearn.metrics import (
        cohen_kappa_score,
        matthews_corrcoef,
        precision_recall_fscore_support,
    )

    answers, right = np.asarray(decisions, np.int64), np.asarray(labels, np.int64)

    def mean(average: str, labels: Labels | None) -> tuple[float, float, float]:
        precision, recall, f1, _ = precision_recall_fscore_support(
            right, answers, labels=labels, average=average, zero_division=0
        )
        return 100 * float(precision), 100 * float(recall), 100 * float(f1)

    macro = mean("macro", np.unique(right))
    alone = len(np.union1d(answers, right)) < 2  # one class only, and always right
    return AverageScores(
        macro=macro,
        weighted=mean("weighted", np.unique(right)),
        micro=mean("micro", None),
        balanced_accuracy=macro[1],
        kappa=1.0 if alone else float(cohen_kappa_score(right, answers)),
        mcc=1.0 if alone else float(matthews_corrcoef(right, answers)),
    )


def _ranking(
    of_class: NDArray[np.bool_], ranked: NDArray[np.floating[Any]] | None
) -> tuple[float | None, float | None]:
    """Return the areas under the ROC curve and under precision and recall, in percent."""
    if ranked is None or of_class.all():
        return None, None
    from sklearn.metrics import average_precision_score, roc_auc_score

    return (
        100 * float(roc_auc_score(of_class, ranked)),
        100 * float(average_precision_score(of_class, ranked)),
    )


def _share(part: int, whole: int) -> tuple[float, float] | None:
    if whole == 0:
        return None
    interval = wilson_interval(part, whole)
    return interval.low, interval.high


def confusion(decisions: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> Confusion:
    """Return the confusion matrix; unreadable images have no column and are left out.

    Args:
        decisions: (N,) in -1..K-1.
        labels: (N,) in 0..K-1.
        class_names: K names.
    """
    from sklearn.metrics import confusion_matrix

    answers, right = np.asarray(decisions, np.int64), np.asarray(labels, np.int64)
    met = np.union1d(answers[answers >= 0], right)
    counts = confusion_matrix(right, answers, labels=met)  # (C, C)
    return Confusion(tuple(class_names[number] for number in met.tolist()), counts)


def worst_mistakes(found: Confusion, *, most: int = 10) -> list[Mistake]:
    """Return the pairs confused most often, by images; `percent` is of the true class's images."""
    totals = found.counts.sum(axis=1)
    wrong = found.counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(int(place), wrong.shape) for place in order]
    return [
        Mistake(
            true=found.class_names[row],
            given=found.class_names[column],
            images=int(wrong[row, column]),
            percent=100 * float(wrong[row, column] / totals[row]),
        )
        for row, column in pairs
        if wrong[row, column]
    ]
