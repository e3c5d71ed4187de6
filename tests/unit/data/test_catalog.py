"""Datasets are found by name or path, and an unknown one is answered with what there is."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from deit_transfer.data import catalog
from deit_transfer.data.adapters import cifar
from deit_transfer.data.dataset import Access
from deit_transfer.data.fetch import download
from deit_transfer.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Let every download fail as offline, and keep the default folder out of the user's cache."""

    def offline(*args, **options):
        raise DataError("offline", hint=options["by_hand"])

    monkeypatch.setattr(cifar, "fetch", offline)
    monkeypatch.setenv("DEIT_TRANSFER_DATA", str(tmp_path / "default"))


def tree(root):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(np.full((2, 2, 3), i, np.uint8)).save(root / name / f"{i}.png")
    return root


def test_the_catalog_is_what_lies_in_adapters():
    names = [info.name for info in catalog.list_datasets() if info.name in catalog._adapters()]
    assert {"cifar10", "cifar100", "digits", "folder"} <= set(names)
    assert names == sorted(names)
    for info in catalog.list_datasets():
        assert info.title
        assert info.license
        assert info.source
        assert info.access in get_args(Access)


def test_digits_need_nothing():
    assert catalog.load_dataset("digits").info.counts == {"train": 1438, "test": 359}
    assert catalog.prepare_dataset("digits") is None


def test_a_path_is_a_folder(tmp_path, monkeypatch):
    root = tree(tmp_path / "digits")
    assert catalog.load_dataset(str(root)).class_names == ("cat", "dog")
    assert catalog.load_dataset("folder", data_dir=root).class_names == ("cat", "dog")
    monkeypatch.chdir(tmp_path)
    assert catalog.load_dataset("./digits").class_names == ("cat", "dog")
    assert catalog.load_dataset("digits").num_classes == 10  # the name wins
    assert catalog.load_dataset("./digits", for_evaluation=True).info.counts == {"test": 10}


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(UsageError, match="Did you mean cifar10") as caught:
        catalog.load_dataset("cifar-10")
    assert "digits" in caught.value.hint
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError):
        catalog.prepare_dataset("nothing")
    with pytest.raises(UsageError, match="none was named"):
        catalog.load_dataset("folder")


def test_a_missing_path_and_a_file_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        catalog.load_dataset("./nowhere")
    (tmp_path / "photos.zip").write_bytes(b"")
    with pytest.raises(DataError, match="is a file") as caught:
        catalog.load_dataset(str(tmp_path / "photos.zip"))
    assert "Unpack" in caught.value.hint


def test_a_folder_in_a_datasets_own_format_points_to_its_name(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(DataError, match="in its own format") as caught:
            catalog.load_dataset(str(folder))
        assert f"cifar10 --data-dir {folder}" in caught.value.hint


def test_offline_says_where_to_put_the_file(tmp_path):
    with pytest.raises(DataError, match="offline") as caught:
        catalog.load_dataset("cifar10")
    for word in ("cifar-10-python.tar.gz", str(tmp_path / "default"), "--data-dir"):
        assert word in caught.value.hint
    with pytest.raises(DataError, match="there is no folder"):
        catalog.load_dataset("cifar10", data_dir=tmp_path / "typo")


def test_what_is_missing_is_downloaded_once(tmp_path, monkeypatch):
    calls = []

    def unpack(archive, destination, **options):
        destination.mkdir(parents=True)
        (destination / "meta").write_bytes(b"")
        return destination

    monkeypatch.setattr(cifar, "fetch", lambda remote, folder, **_: calls.append(remote.url))
    monkeypatch.setattr(cifar, "extract_tar", unpack)
    expected = tmp_path / "default" / "cifar-100-python"
    assert catalog.find_dataset("cifar100") is None
    assert catalog.prepare_dataset("cifar100") == expected
    assert catalog.prepare_dataset("cifar100") == expected == catalog.find_dataset("cifar100")
    assert calls == ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]


def test_the_default_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("DEIT_TRANSFER_DATA", "/data/sets")
    assert catalog.default_data_dir() == Path("/data/sets")
    monkeypatch.delenv("DEIT_TRANSFER_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert catalog.default_data_dir() == Path("/cache/deit-transfer/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert catalog.default_data_dir() == Path.home() / ".cache/deit-transfer/data"


def test_downloads_are_verified_and_encrypted():
    for adapter in (cifar.CIFAR10, cifar.CIFAR100):
        assert adapter.archive.url.startswith("https://")
        assert len(adapter.archive.checksum) == 32
        assert set(adapter.md5) == set(adapter._files)
    with pytest.raises(DataError, match="only https"), download.open_https("http://x.org", 0):
        pass
    assert replace(cifar.CIFAR10.archive, url="https://x.org/a/b.tar").name == "b.tar"
