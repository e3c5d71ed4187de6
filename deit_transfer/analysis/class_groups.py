"""Accuracy over groups of classes: many, medium and few shot; super-categories.

Shapes: N test images, K classes. A decision of -1 is that on an unreadable image, and wrong.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Liu et al., CVPR 2019 (arXiv 1904.05160), section 5.1 "Evaluation Metrics": classes with more
# than 100, 20 to 100, and fewer than 20 training images.
MANY_ABOVE, FEW_BELOW = 100, 20
SHOTS = ("many", "medium", "few")


class Shot(NamedTuple):
    """The accuracy of classes with about as many training images, in percent.

    `accuracy` is the mean over classes of each class's own; None where no such class was tested.
    """

    classes: int
    images: int
    accuracy: float | None


class SuperCategory(NamedTuple):
    """The scores of one super-category's images, in percent.

    `top1` asks for the class itself, `group_top1` for any class of the same super-category.
    """

    name: str
    classes: int
    images: int
    top1: float
    group_top1: float


def shot_of(train_images: int) -> str:
    """Return which group a class with so many training images belongs to."""
    if train_images > MANY_ABOVE:
        return "many"
    return "few" if train_images < FEW_BELOW else "medium"


def long_tail(decisions: ArrayLike, labels: ArrayLike, train_counts: ArrayLike) -> dict[str, Shot]:
    """Return the accuracy of the classes with many, a medium number of, and few training images.

    Only classes that have test images count. The mean is over classes, as in Liu et al., so that
    each class weighs the same however many test images it has.

    Args:
        decisions: (N,) in -1..K-1.
        labels: (N,) in 0..K-1.
        train_counts: (K,) images of each class that the network was trained on.
    """
    answers, right = _pair(decisions, labels)
    counts = np.asarray(train_counts, np.int64)
    tested = np.bincount(right, minlength=len(counts))  # (K,)
    hits = np.bincount(right[answers == right], minlength=len(counts))  # (K,)
    shots = np.array([shot_of(int(count)) for count in counts])  # (K,)
    found = {}
    for shot in SHOTS:
        inside = (shots == shot) & (tested > 0)
        rates = 100 * hits[inside] / tested[inside]
        found[shot] = Shot(
            classes=int(inside.sum()),
            images=int(tested[inside].sum()),
            accuracy=float(rates.mean()) if len(rates) else None,
        )
    return found


def group_numbers(names: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Number super-categories by name: their names in order, and each class's number (K,)."""
    ordered = sorted(set(names))
    place = {name: number for number, name in enumerate(ordered)}
    return ordered, np.array([place[name] for name in names], np.int64)


def has_hierarchy(names: Sequence[str]) -> bool:
    """Return whether the super-categories of K classes divide them: neither one nor K."""
    return 1 < len(set(names)) < len(names)


def super_categories(
    decisions: ArrayLike, labels: ArrayLike, group_of_class: Sequence[str]
) -> list[SuperCategory]:
    """Score each super-category that has test images, by name.

    Args:
        decisions: (N,) in -1..K-1.
        labels: (N,) in 0..K-1.
        group_of_class: (K,) the super-category of each class; "" for none, which is never right.
    """
    answers, right = _pair(decisions, labels)
    ordered, number = group_numbers(group_of_class)
    own = number[right]  # (N,)
    given = np.where(answers >= 0, number[answers], -1)  # (N,)
    named = np.array([bool(name) for name in group_of_class])  # (K,)
    same = (given == own) & named[right]
    rows = []
    for place in np.unique(own).tolist():
        inside = own == place
        rows.append(
            SuperCategory(
                name=ordered[place],
                classes=len(np.unique(right[inside])),
                images=int(inside.sum()),
                top1=100 * float((answers == right)[inside].mean()),
                group_top1=100 * float(same[inside].mean()),
            )
        )
    return rows


def group_top1(rows: Sequence[SuperCategory]) -> float:
    """Return the share of all images, in percent, whose decision has the right super-category."""
    return sum(row.images * row.group_top1 for row in rows) / sum(row.images for row in rows)


def groups_by_name(class_names: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return the super-category of each class, "" where it is not known."""
    return tuple(known.get(name, "") for name in class_names)


def _pair(decisions: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    answers, right = np.asarray(decisions, np.int64), np.asarray(labels, np.int64)
    if answers.shape != right.shape or answers.ndim != 1 or not len(right):
        raise ValueError(f"decisions and labels (N,) got {answers.shape} and {right.shape}")
    return answers, right
