"""The splits of a run: when a validation split is carved off, and what picks the epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deit_transfer.errors import UsageError
from deit_transfer.recipe.schema import Data
from deit_transfer.training.data_splits import DataSplits, load_splits


def splits_of(folder: Path, **settings: Any) -> DataSplits:
    return load_splits(Data(dataset=str(folder), **settings))


def test_enough_images_are_held_out_to_pick_the_epoch(image_folder: Callable[..., Path]) -> None:
    splits = splits_of(image_folder(train=170, test=2, size=8))  # 510 images, 51 held out
    assert splits.counts == {"train": 459, "val": 51, "test": 6}
    assert splits.select == "val"
    assert not any("too few" in note for note in splits.dataset.notes)


def test_few_images_are_all_trained_on_and_the_last_epoch_is_kept(
    image_folder: Callable[..., Path],
) -> None:
    splits = splits_of(image_folder(train=160, test=2, size=8))  # 48 would be held out
    assert splits.counts == {"train": 480, "test": 6}
    assert splits.select == "last"
    assert any("480 labeled images are too few" in note for note in splits.dataset.notes)


def test_a_split_that_is_asked_for_is_carved_off_however_small(
    image_folder: Callable[..., Path],
) -> None:
    folder = image_folder(train=20, test=2, size=8)
    splits = splits_of(folder, select="val")
    assert splits.counts == {"train": 54, "val": 6, "test": 6}
    assert splits.select == "val"
    assert splits_of(folder, select="test").select == "test"
    with pytest.raises(UsageError, match="needs validation images"):
        splits_of(folder, select="val", val_fraction=0)
