"""Images with several right answers, splits joined, and datasets named by their labels alone."""

import os
import pickle

import numpy as np
import pytest

from deit_transfer.data.dataset import ImageSet, LabelSets, Strings, join
from deit_transfer.data.fetch.cache import key_of, read_arrays, write_arrays
from deit_transfer.data.fingerprint import label_fingerprint
from deit_transfer.data.readers.byte_ranges import ByteRanges
from deit_transfer.data.splits import carve_test, settle_splits
from deit_transfer.errors import DataError

SETS = [(2,), (), (0, 3), (1, 2, 0)]


def images(labels, *, name="image", sets=None):
    pixels = (
        np.zeros((len(labels), 1, 1, 3), np.uint8) + np.arange(len(labels))[:, None, None, None]
    )
    made = ImageSet.from_arrays(pixels.astype(np.uint8), np.array(labels), name=name)
    made.label_sets = None if sets is None else LabelSets(sets)
    return made


def plain_mask(sets, num_classes):
    return np.array([[label in answers for label in range(num_classes)] for answers in sets])


def test_label_sets_are_those_given():
    sets = LabelSets(SETS)
    assert [tuple(sets[i]) for i in range(len(sets))] == SETS
    np.testing.assert_array_equal(sets.mask(4), plain_mask(SETS, 4))
    assert LabelSets([]).mask(3).shape == (0, 3)
    copied = pickle.loads(pickle.dumps(sets))
    np.testing.assert_array_equal(copied.mask(4), sets.mask(4))


def test_label_sets_follow_subsets_and_new_numbers():
    split = images([2, 0, 0, 1], sets=SETS)
    np.testing.assert_array_equal(
        split.subset([3, 2]).label_sets.mask(4), plain_mask([SETS[3], SETS[2]], 4)
    )
    new = np.array([3, 1, 0, -1])  # class 3 is dropped
    renumbered = split.renumber(new)
    assert renumbered.labels.tolist() == [0, 3, 3, 1]
    expected = [{new[label] for label in answers} - {-1} for answers in SETS]
    np.testing.assert_array_equal(renumbered.label_sets.mask(4), plain_mask(expected, 4))


def test_joined_splits_are_one_after_the_other():
    parts = [images([0, 1], name="a"), images([], name="b"), images([1, 1, 0], name="c")]
    whole = join(parts)
    assert whole.labels.tolist() == [0, 1, 1, 1, 0]
    assert list(whole.ids) == ["a-00000", "a-00001", "c-00000", "c-00001", "c-00002"]
    assert [int(whole.read(i)[0, 0, 0]) for i in range(5)] == [0, 1, 0, 1, 2]
    assert [whole.where(i) for i in range(5)] == ["a 0", "a 1", "c 0", "c 1", "c 2"]
    assert whole.subset([4, 1]).size(0) == 3
    assert whole.subset([4, 1]).where(0) == "c 2"


def test_labels_alone_name_a_dataset():
    splits = {"train": images([0, 1, 1]), "test": images([1, 0])}
    name = label_fingerprint(splits, ["u", "v"])
    shuffled = {"test": images([0, 1], name="x"), "train": images([1, 0, 1], name="y")}
    assert label_fingerprint(shuffled, ["u", "v"]) == name
    assert label_fingerprint(splits, ["v", "u"]) != name
    assert label_fingerprint({**splits, "test": images([1, 1])}, ["u", "v"]) != name
    assert label_fingerprint({**splits, "val": images([1])}, ["u", "v"]) != name
    assert label_fingerprint({"train": splits["train"]}, ["u", "v"]) != name


def test_splits_are_settled_for_training_and_for_scoring():
    names = ["u", "v"]
    tree = {None: images([0] * 10 + [1] * 10)}
    trained, notes = settle_splits(tree, names, for_evaluation=False)
    assert {split: len(part) for split, part in trained.items()} == {"train": 16, "test": 4}
    assert "set aside as test" in notes[0]
    assert list(settle_splits(tree, names, for_evaluation=True)[0]) == ["test"]
    both = {"test": images([1], name="test"), "train": images([0, 1])}
    assert list(settle_splits(both, names, for_evaluation=False)[0]) == ["train", "test"]
    val_only, notes = settle_splits({"val": images([1])}, names, for_evaluation=True)
    assert list(val_only) == ["test"]
    assert "val is scored" in notes[0]
    train_only, notes = settle_splits({"train": images([1])}, names, for_evaluation=True)
    assert list(train_only) == ["test"]
    with pytest.raises(DataError, match="val and test but no train"):
        settle_splits({"val": images([1]), "test": images([0])}, names, for_evaluation=False)
    with pytest.raises(DataError, match="one image in every class"):
        carve_test(images([0, 1]), names)


def test_byte_ranges_are_read_and_short_files_are_errors(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "b").write_bytes(b"abc")
    source = ByteRanges(
        files=[tmp_path / "a", tmp_path / "b"],
        file_of=np.array([0, 1, 0, 1]),
        starts=np.array([2, 0, 9, 1]),
        lengths=np.array([3, 3, 1, 5]),
        names=Strings("wxyz"),
    )
    assert [source.read(i) for i in range(3)] == [b"234", b"abc", b"9"]
    assert source.where(1) == f"{tmp_path / 'b'}: x"
    assert source.size(3) == 5
    with pytest.raises(OSError, match="ends early"):
        source.read(3)
    copied = pickle.loads(pickle.dumps(source))
    assert copied._open == {}
    assert copied.read(0) == b"234"


def test_cached_arrays_are_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert read_arrays("x") is None
    write_arrays("x", {"a": np.arange(3), "b": np.array(7)})
    stored = read_arrays("x")
    assert (stored["a"].tolist(), int(stored["b"])) == ([0, 1, 2], 7)
    path = tmp_path / "cache" / "deit-transfer" / "index" / "x.npz"
    path.write_bytes(path.read_bytes()[:40])
    assert read_arrays("x") is None
    assert [entry.name for entry in path.parent.iterdir()] == ["x.npz"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    write_arrays("x", {"a": np.arange(3)})  # a cache that cannot be written is no error
    assert read_arrays("x") is None


def test_a_key_names_path_size_and_time(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    before = key_of([path], "tar")
    assert key_of([path], "tar") == before
    assert key_of([path], "wds") != before
    os.utime(path, ns=(1, 1))
    changed = key_of([path], "tar")
    assert changed != before
    path.write_bytes(b"xy")
    os.utime(path, ns=(1, 1))
    assert key_of([path], "tar") != changed
