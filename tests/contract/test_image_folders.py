"""A folder of class folders: every way people lay one out, and every way it can be wrong."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from deit_transfer.data.adapters.folder import FolderAdapter
from deit_transfer.data.pipeline.decode import read_rgb
from deit_transfer.errors import DataError, ImageError


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(os.fsencode(path))).integers(0, 256, (4, 5, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path, "PNG")


def tree(root, **classes):
    """Write `classes` (name -> number of images) below a folder."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image(root / name / f"{i:02d}.png")


def load(root, **options):
    return FolderAdapter(**options).load(root)


def faults(root, **options):
    with pytest.raises(DataError) as caught:
        load(root, **options)
    assert caught.value.hint
    return caught.value.message


def said(dataset, text):
    return [note for note in dataset.notes if text in note]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "eval", "Valid"])
def test_split_folders_by_any_usual_name(tmp_path, val):
    for part in ("train", val, "test"):
        tree(tmp_path / part, cat=2, dog=3)
    dataset = load(tmp_path)
    assert dataset.info.counts == {"train": 5, "val": 5, "test": 5}
    assert dataset.class_names == ("cat", "dog")
    assert dataset.splits["val"].ids[0] == f"{val}/cat/00.png"
    assert dataset.splits["val"].labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.layout == f"train/ {val}/ test/"
    assert dataset.notes == []
    assert dataset.splits["train"].apply_exif


def test_two_names_for_one_split_are_a_fault(tmp_path):
    for part in ("train", "val", "valid"):
        tree(tmp_path / part, cat=2, dog=2)
    assert "val/ and valid/ both mean val" in faults(tmp_path)


def test_without_test_a_fifth_of_each_class_is_set_aside(tmp_path):
    tree(tmp_path / "train", cat=10, dog=20)
    tree(tmp_path / "val", cat=1, dog=1)
    dataset = load(tmp_path)
    assert dataset.info.counts == {"train": 24, "val": 2, "test": 6}
    assert np.bincount(dataset.splits["test"].labels).tolist() == [2, 4]
    assert said(dataset, "6 of 30 images are set aside as test")
    again = load(tmp_path)
    assert list(again.splits["test"].ids) == list(dataset.splits["test"].ids)


def test_a_class_of_one_image_stays_in_train_and_is_noted(tmp_path):
    tree(tmp_path, cat=5, dog=2, emu=1)
    dataset = load(tmp_path)
    assert np.bincount(dataset.splits["train"].labels, minlength=3).tolist() == [4, 1, 1]
    assert np.bincount(dataset.splits["test"].labels, minlength=3).tolist() == [1, 1, 0]
    assert said(dataset, "1 class (emu) of one image")


def test_only_classes_of_one_image_cannot_be_split(tmp_path):
    tree(tmp_path, cat=1, dog=1)
    assert "one image in every class" in faults(tmp_path)


def test_for_evaluation_all_of_a_tree_is_test(tmp_path):
    tree(tmp_path / "tree", cat=2, dog=1)
    assert load(tmp_path / "tree", for_evaluation=True).info.counts == {"test": 3}
    tree(tmp_path / "only" / "test", cat=2, dog=1)
    assert load(tmp_path / "only", for_evaluation=True).info.counts == {"test": 3}
    assert "there is test but no train" in faults(tmp_path / "only")


def test_numbers_are_ordered_by_value(tmp_path):
    tree(tmp_path, **{str(n): 2 for n in (10, 9, 2, 1, 100)})
    dataset = load(tmp_path)
    assert dataset.class_names == ("1", "2", "9", "10", "100")
    assert said(dataset, "ordered by value: 1 is label 0, 100 is label 4")
    train = dataset.splits["train"]
    assert {train.ids[i].split("/")[0]: int(train.labels[i]) for i in range(5)} == {
        "1": 0, "2": 1, "9": 2, "10": 3, "100": 4,
    }  # fmt: skip


def test_mixed_names_are_ordered_as_text(tmp_path):
    tree(tmp_path, **{"10": 2, "9": 2, "x": 2})
    dataset = load(tmp_path)
    assert dataset.class_names == ("10", "9", "x")
    assert not said(dataset, "by value")


def test_class_faults_of_all_splits_are_listed_at_once(tmp_path):
    tree(tmp_path / "train", cat=2, dog=2, emu=0)
    tree(tmp_path / "val", cat=1, Dog=1)
    tree(tmp_path / "test", cat=1, fox=1, dog=0)
    message = faults(tmp_path)
    for fault in (
        "class folder train/emu holds no image",
        "class 'Dog' is in val/ but not in train/. Did you mean dog?",
        "class 'fox' is in test/ but not in train/",
        "class folder test/dog holds no image",
    ):
        assert fault in message


def test_a_class_absent_from_test_is_only_a_note(tmp_path):
    tree(tmp_path / "train", cat=2, dog=2, emu=2)
    tree(tmp_path / "test", cat=1, dog=1)
    dataset = load(tmp_path)
    assert dataset.num_classes == 3
    assert said(dataset, "test/ has no image of 1 class (emu)")


def test_flat_folders_have_no_labels(tmp_path):
    image(tmp_path / "flat" / "1.png")
    assert "holds 1 image but no class folders" in faults(tmp_path / "flat")
    image(tmp_path / "train-flat" / "train" / "1.png")
    tree(tmp_path / "train-flat" / "val", cat=1, dog=1)
    assert "train/ holds 1 image but no class folders" in faults(tmp_path / "train-flat")
    tree(tmp_path / "val-flat" / "train", cat=2, dog=2)
    image(tmp_path / "val-flat" / "val" / "1.png")
    assert "val/ holds 1 image but no class folders" in faults(tmp_path / "val-flat")


def test_a_flat_test_folder_is_unlabeled_and_noted(tmp_path):
    tree(tmp_path / "train", cat=5, dog=5)
    image(tmp_path / "test" / "1.png")
    dataset = load(tmp_path)
    assert dataset.info.counts == {"train": 8, "test": 2}
    assert said(dataset, "without class folders")


def test_empty_missing_and_single_class(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no images" in faults(tmp_path / "empty")
    assert "there is no folder" in faults(tmp_path / "gone")
    tree(tmp_path / "one", cat=3)
    assert "only one class, cat" in faults(tmp_path / "one")


def test_a_wrapping_folder_is_seen_through_in_the_hint(tmp_path):
    tree(tmp_path / "photos" / "photos", cat=3, dog=3)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "photos")
    assert f"Did you mean {tmp_path / 'photos' / 'photos'}?" in caught.value.hint


def test_a_class_may_be_called_train(tmp_path):
    tree(tmp_path, train=5, bus=5, test=5)
    assert load(tmp_path).class_names == ("bus", "test", "train")


def test_what_is_no_image_is_skipped_and_counted(tmp_path):
    tree(tmp_path, cat=5, dog=5)
    for name in (".DS_Store", "._00.jpg", "Thumbs.db", "list.txt", "noextension", "photo.HEIC"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    image(tmp_path / "outside.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "dog" / "broken.png")
    for extension in ("JPG", "Jpeg", "PNG", "webp", "TIF"):
        image(tmp_path / "dog" / f"upper.{extension}")
    dataset = load(tmp_path)
    assert sum(dataset.info.counts.values()) == 15
    (skipped,) = said(dataset, "skipped files")
    assert "5 hidden" in skipped
    assert "2 not images" in skipped
    assert "1 HEIC photos" in skipped
    assert "1 broken links" in skipped
    assert said(dataset, "1 image outside class folders (outside.png)")


def test_folders_beside_the_splits_are_noted(tmp_path):
    tree(tmp_path / "train", cat=2, dog=2)
    tree(tmp_path / "test", cat=2, dog=2)
    tree(tmp_path / "extra", cat=2)
    assert said(load(tmp_path), "not used: 1 folder (extra)")


def test_nested_images_take_their_top_folders_label(tmp_path):
    tree(tmp_path, cat=3, dog=3)
    image(tmp_path / "cat" / "dog" / "deep" / "x.png")
    dataset = load(tmp_path)
    everything = [i for images in dataset.splits.values() for i in images.ids]
    assert "cat/dog/deep/x.png" in everything
    assert dataset.class_names == ("cat", "dog")
    assert said(dataset, "labeled by the top folder: 1 image from deeper ones")


def test_links_are_followed_but_loops_are_not(tmp_path):
    tree(tmp_path / "data", cat=2, dog=2)
    tree(tmp_path / "elsewhere", more=3)
    os.symlink(tmp_path / "elsewhere" / "more", tmp_path / "data" / "dog" / "link")
    os.symlink(tmp_path / "data" / "cat", tmp_path / "data" / "cat" / "self")
    os.symlink(tmp_path / "data", tmp_path / "elsewhere" / "more" / "back")
    dataset = load(tmp_path / "data")
    ids = [i for images in dataset.splits.values() for i in images.ids]
    assert "dog/link/00.png" in ids
    assert len(ids) == 7
    assert "2 links that loop" in said(dataset, "skipped files")[0]


def test_accents_spelled_differently_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree(tmp_path / "train", **{decomposed: 2, "bar": 2})
    tree(tmp_path / "test", **{composed: 2, "bar": 2})
    if len(os.listdir(tmp_path / "train")) != 2:
        pytest.skip("this file system rewrites names")
    dataset = load(tmp_path)
    assert dataset.class_names == ("bar", composed)
    assert dataset.splits["train"].ids[2] == f"train/{composed}/00.png"
    assert read_rgb(dataset.splits["train"], 2).shape == (4, 5, 3)
    tree(tmp_path / "train", **{composed: 2})
    assert "two folders are called train/café" in faults(tmp_path)


def test_names_that_are_no_utf8_can_be_read_and_printed(tmp_path):
    try:
        tree(tmp_path, **{os.fsdecode(b"caf\xe9"): 5, "bar": 5})
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    dataset = load(tmp_path)
    dataset.class_names[1].encode("utf-8")
    images = dataset.splits["train"]
    images.ids[len(images) - 1].encode("utf-8")
    images.where(len(images) - 1).encode("utf-8")
    assert read_rgb(images, len(images) - 1).shape == (4, 5, 3)


def test_the_order_is_the_same_however_files_were_made(tmp_path):
    for place, order in (("a", range(5)), ("b", reversed(range(5)))):
        for i in order:
            for name in ("x", "y"):
                image(tmp_path / place / "train" / name / f"{i}.png")
                image(tmp_path / place / "test" / name / f"{i}.png")
    first, second = load(tmp_path / "a"), load(tmp_path / "b")
    assert list(first.splits["train"].ids) == list(second.splits["train"].ids)


def test_bad_images_are_found_when_decoded_and_named(tmp_path):
    tree(tmp_path / "train", cat=2, dog=2)
    tree(tmp_path / "test", cat=1, dog=1)
    (tmp_path / "train" / "cat" / "00.png").write_bytes(b"")
    dataset = load(tmp_path)
    with pytest.raises(ImageError) as caught:
        read_rgb(dataset.splits["train"], 0)
    assert str(tmp_path / "train" / "cat" / "00.png") in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    tree(tmp_path, cat=2, dog=2)
    (tmp_path / "cat").chmod(0)
    try:
        assert "cannot list" in faults(tmp_path)
    finally:
        (tmp_path / "cat").chmod(0o755)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("seg_train", "seg_test"),
        ("training_set", "test_set"),
        ("train_images", "test_images"),
        ("Training", "Testing"),
    ],
)
def test_splits_in_all_but_name_are_splits(tmp_path, train, test):
    tree(tmp_path / train, cat=4, dog=4)
    tree(tmp_path / test, cat=2, dog=2)
    dataset = load(tmp_path)
    assert dataset.info.counts == {"train": 8, "test": 4}
    assert dataset.class_names == ("cat", "dog")


def test_a_split_beside_class_folders_is_refused(tmp_path):
    tree(tmp_path, cat=4, dog=4)
    tree(tmp_path / "test", cat=2, dog=2)
    assert "test/ lies beside class folders" in faults(tmp_path)


def test_a_class_whose_name_has_a_split_in_it_is_a_class(tmp_path):
    tree(tmp_path, train_station=4, bus_stop=4)
    assert load(tmp_path).class_names == ("bus_stop", "train_station")
