"""CIFAR-10's 60,000 real images read the same as a folder and as the original pickles."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.check import check_dataset
from deit_transfer.data.decode import read_rgb

REAL = os.environ.get("DEIT_TRANSFER_REAL_DATA", "")

pytestmark = pytest.mark.skipif(
    not REAL, reason="DEIT_TRANSFER_REAL_DATA does not name the folder of cifar10-jpeg.tar.gz"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    with tarfile.open(Path(REAL) / "cifar10-jpeg.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (inside,) = [path.parent for path in folder.rglob("train") if path.is_dir()]
    return inside


@pytest.fixture(scope="module")
def pickles(tree):
    script = Path(REAL) / "make_cifar10_batches.py"
    subprocess.run([sys.executable, script, tree, tree / "pickles"], check=True)
    return tree / "pickles"


def content(images):
    """Return the set of (label, pixels) of a split, whatever its order."""
    return sorted(
        (int(images.labels[i]), read_rgb(images, i).tobytes()) for i in range(len(images))
    )


def test_both_routes_give_the_same_images(tree, pickles):
    as_folder = load_dataset(str(tree))
    as_pickles = load_dataset("cifar10", data_dir=pickles)
    assert as_folder.class_names == as_pickles.class_names
    assert as_pickles.info.counts == {"train": 50_000, "test": 10_000}
    (note,) = as_pickles.notes
    assert "differ from the published checksums" in note
    for split in ("train", "test"):
        assert content(as_folder.splits[split]) == content(as_pickles.splits[split])


def test_the_check_finds_no_fault(tree):
    report = check_dataset(load_dataset(str(tree)))
    assert report.problems == []
    assert report.counts == {"train": 50_000, "test": 10_000}
    assert set(report.per_class["train"].values()) == {5000}
    assert not np.diff(list(report.per_class["test"].values())).any()
