"""The official split file of Flowers-102 is read and gives the published split."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from deit_transfer.data.adapters.flowers102 import FlowersAdapter
from deit_transfer.data.fetch.download import checksum
from deit_transfer.data.readers.layout_checks import integers, read_mat

REAL = os.environ.get("DEIT_TRANSFER_REAL_DATA", "")

pytestmark = pytest.mark.skipif(
    not REAL, reason="DEIT_TRANSFER_REAL_DATA does not name the folder of flowers102-setid.mat"
)


def test_the_official_split(tmp_path):
    official = Path(REAL) / "flowers102-setid.mat"
    adapter = FlowersAdapter()
    published = {file.name: file.checksum for file in adapter.mat_files}
    assert checksum(official, "md5") == published["setid.mat"]
    place = tmp_path / "flowers-102"
    (place / "jpg").mkdir(parents=True)
    for number in range(1, 8190):  # the images themselves are not at hand, their names are
        (place / "jpg" / f"image_{number:05d}.jpg").touch()
    savemat(place / "imagelabels.mat", {"labels": np.arange(8189)[None] % 102 + 1})
    (place / "setid.mat").symlink_to(official)
    dataset = adapter.load(adapter.find(tmp_path))
    counts = {split: len(images) for split, images in dataset.splits.items()}
    assert counts == {"train": 1020, "val": 1020, "test": 6149}
    test = {int(name[6:11]) for name in dataset.splits["test"].ids}
    assert test == set(integers(read_mat(official), "tstid").tolist())
