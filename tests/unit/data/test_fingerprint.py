"""The fingerprint changes with the data, and with nothing else."""

import numpy as np
import pytest

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.fingerprint import fingerprint
from deit_transfer.errors import DataError


def splits(folder, contents=(b"aa", b"bb", b"cc"), names=("a", "b", "c"), labels=(0, 1, 1)):
    folder.mkdir(exist_ok=True)
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    images = ImageSet.from_files(folder, names, np.array(labels))
    return {"train": images.subset([0, 1]), "test": images.subset([2])}


def test_equal_data_in_another_place_is_equal(tmp_path):
    first = fingerprint(splits(tmp_path / "x"), ["u", "v"])
    assert len(first) == 64
    assert first == fingerprint(splits(tmp_path / "y"), ["u", "v"])
    swapped = dict(reversed(splits(tmp_path / "x").items()))
    assert first == fingerprint(swapped, ["u", "v"])  # the order of the dictionary is no fact


@pytest.mark.parametrize(
    "change",
    [
        {"contents": (b"aa", b"bX", b"cc")},
        {"contents": (b"aa", b"bbb", b"cc")},
        {"names": ("a", "b", "d")},
        {"labels": (0, 0, 1)},
    ],
)
def test_any_change_shows(tmp_path, change):
    before = fingerprint(splits(tmp_path / "x"), ["u", "v"])
    assert before != fingerprint(splits(tmp_path / "y", **change), ["u", "v"])


def test_of_large_sets_every_size_and_some_contents_count(tmp_path, monkeypatch):
    monkeypatch.setattr("deit_transfer.data.fingerprint._HASHED_IMAGES", 1)
    before = fingerprint(splits(tmp_path / "x"), ["u", "v"])
    longer = splits(tmp_path / "y", contents=(b"aa", b"bbb", b"cc"))
    same_size = splits(tmp_path / "z", contents=(b"aa", b"bX", b"cc"))
    assert before != fingerprint(longer, ["u", "v"])
    assert before == fingerprint(same_size, ["u", "v"])  # the stated limit


def test_class_names_and_splits_count(tmp_path):
    data = splits(tmp_path)
    before = fingerprint(data, ["u", "v"])
    assert before != fingerprint(data, ["v", "u"])
    assert before != fingerprint(data, ["uv", ""])
    assert before != fingerprint({"train": data["train"]}, ["u", "v"])
    assert before != fingerprint({"train": data["train"], "val": data["test"]}, ["u", "v"])


def test_pixels_in_memory_count():
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    before = fingerprint({"train": ImageSet.from_arrays(pixels.copy(), np.zeros(3))}, ["a"])
    pixels[2, 1, 1, 2] = 1
    assert before != fingerprint({"train": ImageSet.from_arrays(pixels, np.zeros(3))}, ["a"])


def test_a_vanished_file_is_named(tmp_path):
    data = splits(tmp_path)
    (tmp_path / "c").unlink()
    with pytest.raises(DataError, match=r"c of the test split"):
        fingerprint(data, ["u", "v"])
