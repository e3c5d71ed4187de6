"""Load a dataset and cut it into the train, val and test splits of a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from deit_transfer.data.adapters.folder import FOLDER
from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.dataset import Dataset, ImageSet, Options, Progress, Split, join
from deit_transfer.data.fingerprint import fingerprint, label_fingerprint
from deit_transfer.data.pipeline.readable import find_unreadable
from deit_transfer.data.splits import carve_val, keep_classes, take_limit
from deit_transfer.errors import DataError, UsageError
from deit_transfer.recipe import schema

# the standard error of an accuracy of 90% on 50 images is 4 points: fewer cannot tell epochs apart
FEWEST_TO_SELECT_ON = 50
MOST_LISTED = 10
MOST_UNEVEN = 10  # times as many images of one class as of another


@dataclass(frozen=True, kw_only=True)
class DataSplits:
    """The three splits of a run; `val` is None where nothing is held out for selection.

    `select` is what picks the epoch: the val split, the test split (the paper's protocol), or
    the last epoch.

    `fingerprint` names the images, labels and splits: equal only for equal data.
    `label_fingerprint` names the dataset whatever files it was read from.
    """

    dataset: Dataset
    train: ImageSet
    val: ImageSet | None
    test: ImageSet
    select: Literal["val", "test", "last"]
    fingerprint: str
    label_fingerprint: str

    @property
    def name(self) -> str:
        """The dataset's name in tables; see `display_name`."""
        return display_name(self.dataset)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    @property
    def counts(self) -> dict[str, int]:
        """Return the images per split."""
        val = {"val": len(self.val)} if self.val is not None else {}
        return {"train": len(self.train), **val, "test": len(self.test)}


def load_splits(settings: schema.Data, *, progress: Progress | None = None) -> DataSplits:
    """Load a dataset and cut it as the recipe says; the test split is never touched.

    The labeled images are first limited, then a validation split is carved from what is
    left, unless the dataset has its own: a limit of 5,000 buys 5,000 labels in all. Where
    `data.select` is auto and the validation split would be too small to choose an epoch on,
    nothing is carved off: all labeled images are trained on, and the last epoch is kept.
    """
    dataset = load_whole_dataset(settings, progress=progress)
    train, val = dataset.splits["train"], dataset.splits.get("val")
    if settings.train_on == "train+val":
        if val is None:
            raise UsageError(
                f"{dataset.info.name} has no val split that could be trained on as well",
                hint="Leave data.train_on out, or set it to train: --set data.train_on=train",
            )
        train, val = join([train, val]), None
        note = f"train and val are joined: {len(train):,} labeled images"
        dataset = replace(dataset, notes=[*dataset.notes, note])
    if settings.train_limit is not None or settings.fraction is not None:
        kept = take_limit(
            train.labels,
            limit=settings.train_limit,
            fraction=settings.fraction,
            seed=settings.split_seed,
        )
        train = train.subset(kept)
    share = min(settings.val_fraction, settings.val_limit / len(train))
    fewest = max(FEWEST_TO_SELECT_ON, len(dataset.class_names))
    if settings.select == "auto" and val is None and 0 < round(share * len(train)) < fewest:
        share = 0.0
        note = (
            f"{len(train):,} labeled images are too few to choose an epoch on some of them: "
            "fine-tuning uses all, and keeps the last epoch"
        )
        dataset = replace(dataset, notes=[*dataset.notes, note])
    if val is None and share > 0:
        train_part, val_part = carve_val(train.labels, fraction=share, seed=settings.split_seed)
        train, val = train.subset(train_part), train.subset(val_part)
    if val is None and settings.select == "val":
        raise UsageError(
            "data.select = 'val' needs validation images; data.val_fraction = 0 sets none aside",
            hint="Use --set data.val_fraction=0.1, or --set data.select=last",
        )
    dataset = replace(dataset, notes=[*dataset.notes, *_imbalance(train, dataset)])
    splits: dict[Split, ImageSet] = {"train": train, "test": dataset.splits["test"]}
    if val is not None:
        splits["val"] = val
    return DataSplits(
        dataset=dataset,
        train=train,
        val=val,
        test=dataset.splits["test"],
        select=_selection(settings.select, val, fewest),
        fingerprint=fingerprint(splits, class_names=dataset.class_names),
        label_fingerprint=label_fingerprint(dataset.splits, class_names=dataset.class_names),
    )


def _imbalance(train: ImageSet, dataset: Dataset) -> list[str]:
    """Return what to know where some class has many more training images than another."""
    counts = np.bincount(train.labels, minlength=dataset.num_classes)
    if counts.max() <= MOST_UNEVEN * max(1, counts.min()):
        return []
    most, fewest = (dataset.class_names[place] for place in (counts.argmax(), counts.argmin()))
    return [
        f"the classes are uneven: {counts.max():,} training images of {most}, {counts.min():,} of "
        f"{fewest}; --balance logits trains for all classes alike, and the mean per class says "
        "more than top-1"
    ]


def check_readable(
    splits: DataSplits, *, allow_bad: bool, progress: Callable[[int, int], None] | None = None
) -> None:
    """Check that the images which are scored can be read, before anything is trained.

    Args:
        splits: Of a run.
        allow_bad: Count an unreadable image as wrong when it is scored, so that none is refused.
        progress: Called with the images done and in total; may raise to stop.

    Raises:
        DataError: Some cannot; they are listed.
    """
    if allow_bad:
        return
    parts = {"val": splits.val, "test": splits.test}
    reasons = [
        f"{split}: {reason}"
        for split, images in parts.items()
        if images is not None
        for _, reason in find_unreadable(images, progress=progress)
    ]
    if reasons:
        listed = "".join(f"\n  - {reason}" for reason in reasons[:MOST_LISTED])
        more = f"\n  - and {len(reasons) - MOST_LISTED} more" * (len(reasons) > MOST_LISTED)
        raise DataError(
            f"{len(reasons)} of the images to score cannot be read:{listed}{more}",
            hint="Restore the files, or use --set data.allow_bad=true, which counts them as wrong",
        )


def _selection(
    setting: Literal["auto", "val", "test", "last"], val: ImageSet | None, fewest: int
) -> Literal["val", "test", "last"]:
    if setting != "auto":
        return setting
    return "val" if val is not None and len(val) >= fewest else "last"


def display_name(dataset: Dataset) -> str:
    """Return a dataset's name in tables: its name in the catalog, or that of its folder."""
    return dataset.info.title if dataset.info.name == FOLDER.name else dataset.info.name


def load_whole_dataset(settings: schema.Data, *, progress: Progress | None = None) -> Dataset:
    """Load the dataset that a recipe names, with its official splits and the chosen classes.

    Raises:
        DataError: It has nothing to train on, or nothing to score.
    """
    dataset = load_dataset(
        settings.dataset,
        data_dir=Path(settings.data_dir) if settings.data_dir is not None else None,
        options=Options(rank=settings.rank, class_order=settings.class_order),
        progress=progress,
    )
    absent = {"train", "test"} - dataset.splits.keys()
    if absent:
        raise DataError(
            f"{dataset.info.name} has no {' and no '.join(sorted(absent))} images",
            hint=f"It only scores: deit-transfer evaluate RUN {settings.dataset}",
        )
    return keep_classes(dataset, settings.classes) if settings.classes else dataset
