"""Own which images a run trains on, selects on and is scored on."""

from dataclasses import dataclass
from pathlib import Path

from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.contract import Dataset, ImageSet, Split
from deit_transfer.data.fingerprint import fingerprint
from deit_transfer.data.splits import carve_val, keep_classes, take_limit
from deit_transfer.recipe import schema


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Hold the three splits of a run; `val` is None where nothing is held out for selection.

    `fingerprint` names the images, labels and splits: equal only for equal data.
    """

    dataset: Dataset
    train: ImageSet
    val: ImageSet | None
    test: ImageSet
    fingerprint: str

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    @property
    def counts(self) -> dict[str, int]:
        """Return the images per split."""
        val = {"val": len(self.val)} if self.val is not None else {}
        return {"train": len(self.train), **val, "test": len(self.test)}


def load_inputs(settings: schema.Data) -> Inputs:
    """Load a dataset and cut it as the recipe says; the test split is never touched.

    The labelled images are first limited, then a validation split is carved from what is
    left, unless the dataset has its own: a limit of 5,000 buys 5,000 labels in all.
    """
    data_dir = Path(settings.data_dir) if settings.data_dir is not None else None
    dataset = load_dataset(settings.dataset, data_dir=data_dir)
    if settings.classes:
        dataset = keep_classes(dataset, settings.classes)
    train, val = dataset.splits["train"], dataset.splits.get("val")
    if settings.train_limit is not None or settings.fraction is not None:
        kept = take_limit(
            train.labels,
            limit=settings.train_limit,
            fraction=settings.fraction,
            seed=settings.split_seed,
        )
        train = train.subset(kept)
    if val is None and settings.val_fraction > 0:
        share = min(settings.val_fraction, settings.val_limit / len(train))
        train_part, val_part = carve_val(train.labels, fraction=share, seed=settings.split_seed)
        train, val = train.subset(train_part), train.subset(val_part)
    splits: dict[Split, ImageSet] = {"train": train, "test": dataset.splits["test"]}
    if val is not None:
        splits["val"] = val
    return Inputs(
        dataset=dataset,
        train=train,
        val=val,
        test=dataset.splits["test"],
        fingerprint=fingerprint(splits, class_names=dataset.class_names),
    )
