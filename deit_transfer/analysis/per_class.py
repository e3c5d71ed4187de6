"""Metrics per class: scikit-learn's classification report and confusion matrix.

Shapes: N images, K classes. A decision of -1 is that on an unreadable image, and wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ClassScore(NamedTuple):
    """The metrics of one class in percent; `images` is its support."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


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
    decisions: ArrayLike, labels: ArrayLike, class_names: Sequence[str]
) -> list[ClassScore]:
    """Return scikit-learn's classification report over the classes that have images.

    A class that is never given has precision 0.

    Args:
        decisions: (N,) in -1..K-1.
        labels: (N,) in 0..K-1.
        class_names: K names.
    """
    from sklearn.metrics import classification_report

    present = np.unique(np.asarray(labels, np.int64))
    names = [str(number) for number in present.tolist()]  # names alone may be equal to "accuracy"
    report = classification_report(
        labels, decisions, labels=present, target_names=names, output_dict=True, zero_division=0
    )
    return [
        ClassScore(
            name=class_names[int(number)],
            images=int(report[number]["support"]),
            precision=100 * float(report[number]["precision"]),
            recall=100 * float(report[number]["recall"]),
            f1=100 * float(report[number]["f1-score"]),
        )
        for number in names
    ]


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
