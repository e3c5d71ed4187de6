"""The splits of a run: when a validation split is carved off, and what picks the epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deit_transfer.data.pipeline import readable
from deit_transfer.errors import DataError, UsageError
from deit_transfer.recipe.schema import Data
from deit_transfer.training.data_splits import DataSplits, check_readable, load_splits


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


def test_an_unreadable_test_image_is_found_before_training(
    image_folder: Callable[..., Path],
) -> None:
    folder = image_folder(train=4, test=2, size=16)
    cut = folder / "test" / "dog" / "000.png"
    cut.write_bytes(cut.read_bytes()[:60])
    splits = splits_of(folder)
    with pytest.raises(DataError, match="1 of the images to score cannot be read") as caught:
        check_readable(splits, allow_bad=False)
    assert str(cut) in caught.value.message
    check_readable(splits, allow_bad=True)


def test_of_a_large_split_headers_are_read(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(train=4, test=2, size=16)
    (folder / "test" / "cat" / "000.png").write_bytes(b"")
    monkeypatch.setattr(readable, "DECODED_BYTES", 0)
    found = readable.find_unreadable(splits_of(folder).test)
    assert [index for index, _ in found] == [0]


def test_uneven_classes_are_named_with_what_helps(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(train=12, test=2, size=8)
    assert not any("uneven" in note for note in splits_of(folder).dataset.notes)
    for path in sorted((folder / "train" / "owl").iterdir())[1:]:
        path.unlink()
    (note,) = (note for note in splits_of(folder).dataset.notes if "uneven" in note)
    assert "12 training images of cat, 1 of owl; --balance logits" in note
