"""CIFAR-10's 60,000 real images read the same as a folder and as the original pickles."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.check import check_dataset
from deit_transfer.data.fingerprint import label_fingerprint
from deit_transfer.data.pipeline.decode import read_rgb
from deit_transfer.training.choose_recipe import choose_recipe
from deit_transfer.training.train import train

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


@pytest.fixture(scope="module")
def hub(tree, pickles):
    """Write parquet files as the hub has them: PNG bytes, here of the pickles' pixels in order."""
    import pyarrow
    import pyarrow.parquet

    dataset = load_dataset("cifar10", data_dir=pickles)
    features = {"label": {"names": list(dataset.class_names), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for split, images in dataset.splits.items():
        cells = []
        for index in range(len(images)):
            buffer = io.BytesIO()
            Image.fromarray(images.read(index)).save(buffer, "PNG", compress_level=1)
            cells.append({"bytes": buffer.getvalue(), "path": None})
        table = pyarrow.table({"img": cells, "label": images.labels})
        folder = tree / "hub" / "plain_text"
        folder.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(
            table.replace_schema_metadata(metadata), folder / f"{split}-00000-of-00001.parquet"
        )
    return f"hf:{tree / 'hub'}"


def test_three_doors_give_the_same_labels_and_train_alike(
    tree, pickles, hub, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    doors = [
        load_dataset(str(tree)),
        load_dataset("cifar10", data_dir=pickles),
        load_dataset(hub),
    ]
    assert len({label_fingerprint(door.splits, door.class_names) for door in doors}) == 1
    assert content(doors[2].splits["test"]) == content(doors[0].splits["test"])
    weights = []
    for dataset, data_dir in (("cifar10", str(pickles)), (hub, None)):
        overrides = {
            "data.data_dir": data_dir,
            "data.train_limit": 200,
            "model.name": "deit_micro",
            "model.resolution": 32,
            "schedule.max_steps": 20,
            "schedule.progressive": [],
            "run.workers": 0,
            "run.device": "cpu",
            "run.attention": "fused",
        }
        recipe = choose_recipe(
            "scratch", dataset, recipe_name="scratch/cifar10", overrides=overrides
        )
        result = train(recipe, out=tmp_path / "runs")
        weights.append(load_file(Path(result["run"]) / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_check_finds_no_fault(tree):
    report = check_dataset(load_dataset(str(tree)))
    assert report.problems == []
    assert report.counts == {"train": 50_000, "test": 10_000}
    assert set(report.per_class["train"].values()) == {5000}
    assert not np.diff(list(report.per_class["test"].values())).any()
