"""Cut splits: carve off validation and test, limit the labels, keep some classes.

Every choice is a pure function of labels and seed, written out here so that no library upgrade
changes a split that a published figure rests on. Nothing is read from disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import SPLITS, Dataset, ImageSet, Split
from deit_transfer.errors import DataError, UsageError, did_you_mean

Indices = NDArray[np.int64]

# Where a dataset brings no test split, this much of each class becomes one, always the same.
TEST_FRACTION = 0.2
_TEST_SEED = 0

# What people call their splits, in folders, shards and tables.
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
    "test": "test",
    "testing": "test",
}


def carve_val(
    labels: NDArray[np.int64], *, fraction: float, seed: int, every_class: bool = False
) -> tuple[Indices, Indices]:
    """Cut a held-out part from a split, with the same class shares as the whole.

    Args:
        labels: (N,) class of each image.
        fraction: Share to hold out, between 0 and 1 exclusive.
        seed: Which of the possible cuts.
        every_class: Hold out at least one image of each class that has two, even where the
            share alone would give none. For test sets; it makes the part larger than asked when
            many classes are small.

    Returns:
        The indices that stay and those held out, both sorted. The last image of a class is
        never held out, so that a class of one image stays whole.

    Raises:
        DataError: Nothing can be held out, or nothing would stay.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, not {fraction}")
    counts = np.bincount(labels)
    wanted = _held_out_per_class(counts, fraction=fraction, seed=seed, every_class=every_class)
    if wanted.sum() == 0:
        raise DataError(
            f"no validation or test images can be set aside: {len(labels)} images in "
            f"{np.count_nonzero(counts)} classes are too few for a share of {fraction:g}",
            hint="Add images, or give val/ and test/ folders of your own",
        )
    held = _rank_within_class(labels, seed) < wanted[labels]
    return np.flatnonzero(~held), np.flatnonzero(held)


def carve_test(train: ImageSet, class_names: Sequence[str]) -> tuple[ImageSet, ImageSet, list[str]]:
    """Set a test split aside from `train`, where a dataset brings none: always the same one.

    Returns:
        What stays, what is set aside, and the notes that say so.

    Raises:
        DataError: No class has an image to spare.
    """
    counts = np.bincount(train.labels, minlength=len(class_names))
    single = [name for name, count in zip(class_names, counts, strict=True) if count == 1]
    if counts.max(initial=0) <= 1:
        raise DataError(
            "there is one image in every class: no test images can be set aside",
            hint="Add images to at least some classes, or give a test split of your own",
        )
    stay, held = carve_val(train.labels, fraction=TEST_FRACTION, seed=_TEST_SEED, every_class=True)
    notes = [
        f"no test split: {len(held)} of {len(train)} images are set aside as test "
        f"({TEST_FRACTION:.0%} of each class, always the same)"
    ]
    if single:
        listed = ", ".join(single[:5]) + (", ..." if len(single) > 5 else "")
        notes.append(
            f"{len(single)} {'class' if len(single) == 1 else 'classes'} ({listed}) of one image: "
            "it stays in train, none is tested"
        )
    return train.subset(stay), train.subset(held), notes


def settle_splits(
    found: Mapping[Split | None, ImageSet], class_names: Sequence[str], *, for_evaluation: bool
) -> tuple[dict[Split, ImageSet], list[str]]:
    """Turn the splits that an address holds into those that a run needs.

    Args:
        found: Images by split; None for images that belong to no split in particular.
        class_names: Names in label order.
        for_evaluation: Only score: images of no split are test, and train is not needed.

    Returns:
        The splits in order, and the notes about what was done.

    Raises:
        DataError: There is nothing to train on or nothing to score.
    """
    splits: dict[Split, ImageSet] = {split: found[split] for split in SPLITS if split in found}
    notes: list[str] = []
    if None in found:
        splits["test" if for_evaluation else "train"] = found[None]
    if for_evaluation:
        if "test" not in splits and "val" in splits:
            splits["test"] = splits.pop("val")
            notes.append("there is no test split: val is scored")
        if "test" not in splits and "train" in splits:
            splits["test"] = splits.pop("train")
            notes.append("there is no test split: all images are scored")
    elif "train" not in splits:
        raise DataError(
            f"there is {' and '.join(splits) or 'nothing'} but no train split",
            hint="Name the training files too, or score only: deit-transfer evaluate RUN DATASET",
        )
    elif "test" not in splits:
        splits["train"], splits["test"], notes = carve_test(splits["train"], class_names)
    splits = {split: splits[split] for split in SPLITS if split in splits}
    check_ids(splits)
    return splits, notes if for_evaluation else [*notes, *check_classes(splits, class_names)]


def check_classes(splits: Mapping[Split, ImageSet], class_names: Sequence[str]) -> list[str]:
    """Check that training can learn the classes of every split; return notes on empty ones.

    Raises:
        DataError: Train has images of fewer than two classes, or another split has images of a
            class that train has none of.
    """
    in_train = set(np.unique(splits["train"].labels).tolist())
    if len(in_train) < 2:
        name = class_names[next(iter(in_train))] if in_train else "none"
        raise DataError(
            f"train has images of only one class, {name}: at least two are needed",
            hint="Check the column or folder that holds the labels",
        )
    notes = []
    for split, images in splits.items():
        present = set(np.unique(images.labels).tolist())
        unknown = [class_names[label] for label in sorted(present - in_train)]
        if unknown:
            raise DataError(
                f"{split} has images of {_few(unknown)}, and train has none",
                hint="Add training images of these, or leave their test images out",
            )
        absent = [class_names[label] for label in sorted(in_train - present)]
        if absent:
            notes.append(f"{split} has no image of {_few(absent)}")
    empty = [name for label, name in enumerate(class_names) if label not in in_train]
    if empty:
        notes.append(f"named, but without a training image: {_few(empty)}")
    return notes


def check_ids(splits: Mapping[Split, ImageSet]) -> None:
    """Check that an image id names one image, since predictions are joined by it.

    Raises:
        DataError: An id stands for two images.
    """
    seen: set[str] = set()
    for split, images in splits.items():
        for name in images.ids:
            if name in seen:
                raise DataError(
                    f"two images are called {name!r} (the second is in {split})",
                    hint="Give each image a name of its own",
                )
            seen.add(name)


def _few(names: Sequence[str]) -> str:
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({listed})"


def take_limit(
    labels: NDArray[np.int64], *, limit: int | None = None, fraction: float | None = None, seed: int
) -> Indices:
    """Choose a smaller training set with the same class shares.

    Subsets are nested: under one seed the choice for a smaller limit lies within that for a
    larger one, so that a curve over sizes compares more with less of the same data.

    Args:
        labels: (N,) class of each image.
        limit: How many images to keep; at least one of each class.
        fraction: The same as a share of N, above 0 and at most 1. Exactly one of the two.
        seed: Which of the possible choices.

    Returns:
        The sorted indices of the images to keep.

    Raises:
        DataError: The limit is below the number of classes or above the number of images.
    """
    if (limit is None) == (fraction is None):
        raise ValueError("give either limit or fraction")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, not {fraction}")
    wanted = round(len(labels) * fraction) if fraction is not None else limit or 0
    num_classes = len(np.unique(labels))
    if not num_classes <= wanted <= len(labels):
        raise DataError(
            f"cannot keep {wanted} of the {len(labels)} training images: a limit must lie "
            f"between {num_classes} (one image a class) and {len(labels)}",
            hint=f"Give for example --train-limit {min(len(labels), 10 * num_classes)}",
        )
    rank = _rank_within_class(labels, seed)
    place = (rank + 0.5) / np.bincount(labels)[labels]  # even steps through each class
    place[rank == 0] = 0.0  # one image of every class comes before a second of any
    order = np.lexsort((_scores(len(labels), seed), place))
    return np.sort(order[:wanted])


def keep_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Keep only some classes, renumbered 0..K-1 in the dataset's own order.

    Raises:
        UsageError: A name is unknown or repeated, or fewer than two are given.
        DataError: A split has no image of the classes kept.
    """
    _check_names(dataset, names)
    kept = [label for label, name in enumerate(dataset.class_names) if name in names]
    renumbered = np.full(dataset.num_classes, -1, np.int64)
    renumbered[kept] = np.arange(len(kept))
    splits = {}
    for split, images in dataset.splits.items():
        chosen = np.flatnonzero(renumbered[images.labels] >= 0)
        if not len(chosen):
            raise DataError(
                f"the {split} split has no image of the classes {', '.join(names)}",
                hint="Keep other classes, or add images of these",
            )
        splits[split] = images.subset(chosen).renumber(renumbered)
    note = f"classes: {len(kept)} of {dataset.num_classes} kept"
    return replace(
        dataset,
        info=replace(
            dataset.info,
            num_classes=len(kept),
            counts={split: len(images) for split, images in splits.items()},
        ),
        class_names=tuple(dataset.class_names[label] for label in kept),
        groups=tuple(dataset.groups[label] for label in kept) if dataset.groups else (),
        splits=splits,
        notes=[*dataset.notes, note],
    )


def _check_names(dataset: Dataset, names: Sequence[str]) -> None:
    faults = []
    for name in dict.fromkeys(names):
        if name not in dataset.class_names:
            guess = did_you_mean(name, dataset.class_names)
            faults.append(f"{dataset.info.title} has no class {name!r}. {guess}".rstrip())
        if list(names).count(name) > 1:
            faults.append(f"class {name!r} is given {list(names).count(name)} times")
    if len(set(names)) < 2:
        faults.append("at least two classes are needed")
    if faults:
        listed = ", ".join(dataset.class_names[:20])
        more = ", ..." if dataset.num_classes > 20 else ""
        raise UsageError("; ".join(faults), hint=f"Classes: {listed}{more}")


def _held_out_per_class(
    counts: NDArray[np.int64], *, fraction: float, seed: int, every_class: bool
) -> NDArray[np.int64]:
    """Share out the held-out images over the classes by largest remainder.

    The total is the fraction of all images rounded, unless the last images of small classes
    are needed for it or `every_class` adds some.
    """
    most = np.maximum(counts - 1, 0)  # a class keeps its last image
    exact = counts * fraction
    wanted = np.minimum(np.floor(exact).astype(np.int64), most)
    if every_class:
        wanted = np.maximum(wanted, np.minimum(most, 1))
    missing = round(counts.sum() * fraction) - int(wanted.sum())
    by_remainder = np.lexsort((_scores(len(counts), seed), wanted - exact))
    for label in by_remainder:
        if missing > 0 and wanted[label] < most[label] and wanted[label] < exact[label]:
            wanted[label] += 1
            missing -= 1
    return wanted


def _rank_within_class(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the position (N,) of each image in the shuffled list of its class."""
    order = np.lexsort((_scores(len(labels), seed), labels))
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - starts[labels[order]]
    return rank


def _scores(n: int, seed: int) -> NDArray[np.uint64]:
    """Return n well-mixed numbers that depend on seed and position alone.

    SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"):
    NumPy's own generators may change their streams between versions, this cannot.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed % 2**64], np.uint64) + golden)
        return _mix(start + np.arange(1, n + 1, dtype=np.uint64) * golden)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
