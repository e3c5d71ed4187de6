"""Every dataset's miniature is trained on for two steps by its recipes, tuned and from scratch."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from miniatures import (
    REAL_ANSWERS,
    cars,
    flowers,
    hub_folder,
    imagenet,
    imagenet_real,
    imagenet_v2,
    inat,
    parquet,
    shard_address,
    table,
)
from PIL import Image
from test_adapters import CIFAR10, CIFAR100, write_cifar, write_tree

from deit_transfer.data import catalog
from deit_transfer.data.check import check_dataset
from deit_transfer.data.fingerprint import label_fingerprint
from deit_transfer.errors import DataError, UsageError
from deit_transfer.recipe.loader import default_recipe_name, list_recipes, load_recipe
from deit_transfer.run.choose import choose_recipe
from deit_transfer.run.evaluate import evaluate
from deit_transfer.run.inputs import load_inputs
from deit_transfer.run.train import train


def cifar10(root):
    return write_cifar(CIFAR10, root)


def cifar100(root):
    return write_cifar(CIFAR100, root, train=40, test=10)


def folder(root):
    for split in ("train", "test"):
        write_tree(root / "photos" / split, ["ant", "bee"], 6)
    return str(root / "photos")


BY_NAME = {
    "cars": cars,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "flowers102": flowers,
    "imagenet": imagenet,
    "inat2018": inat,
    "inat2019": lambda root: inat(root, year="2019"),
}
BY_ADDRESS = {"folder": folder, "hub": hub_folder, "shards": shard_address, "table": table}

QUICK = {
    "model.name": "deit_micro",
    "model.resolution": 32,
    "schedule.max_steps": 2,
    "schedule.min_steps": 0,
    "schedule.batch_size": 4,
    "schedule.progressive": [],
    "optim.peak_lr": 1e-2,
    "optim.floor_lr": 0.0,
    "optim.warmup_lr": 0.0,
    "run.attention": "fused",
    "run.device": "cpu",
    "run.workers": 0,
}


def quick(mode, dataset, data_dir=None, *, start=None, recipe_name=None):
    """Return a dataset's own recipe, cut to two steps of a tiny network."""
    overrides = dict(QUICK)
    if data_dir is not None:
        overrides["data.data_dir"] = str(data_dir)
    name = recipe_name or default_recipe_name(mode, dataset)
    if load_recipe(name).data.val_fraction > 0:
        overrides["data.val_fraction"] = 0.3  # a tenth of a miniature is no image
    return choose_recipe(mode, dataset, recipe_name=recipe_name, start=start, overrides=overrides)


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """Leave out the half second in which a run measures the machine's speed."""
    monkeypatch.setattr("deit_transfer.run.blueprint.images_per_second", lambda *_, **__: 100.0)


@pytest.fixture
def known(monkeypatch, tmp_path):
    """Return a function that writes a miniature and lets the catalogue know it by its name."""

    def make(name):
        if name in BY_ADDRESS:
            return BY_ADDRESS[name](tmp_path / "data"), None
        adapter = BY_NAME[name](tmp_path / "data")
        adapters = {**catalog._adapters(), adapter.info.name: adapter}
        monkeypatch.setattr(catalog, "_adapters", lambda: adapters)
        return name, tmp_path / "data"

    return make


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return the folder of a tiny run that everything is fine-tuned from."""
    result = train(quick("scratch", "digits"), out=tmp_path_factory.mktemp("start"))
    return result["run"]


@pytest.mark.parametrize("name", [*BY_NAME, *BY_ADDRESS])
def test_each_dataset_is_checked_and_trained_on(name, known, start, tmp_path):
    dataset, data_dir = known(name)
    report = check_dataset(catalog.load_dataset(dataset, data_dir=data_dir), workers=0)
    assert [problem for problem in report.problems if "no image of" not in problem] == []
    for mode in ("finetune", "scratch"):
        recipe = quick(mode, dataset, data_dir, start=start if mode == "finetune" else None)
        result = train(recipe, out=tmp_path / "runs")
        assert result["steps"] == 2
        assert result["num_test_images"] == report.counts["test"]
        assert 0 <= result["top1"] <= 100
        assert result["mode"] == mode


@pytest.mark.parametrize(
    "recipe_name",
    [
        name
        for name in list_recipes()
        if name.startswith("paper/") and load_recipe(name).data.dataset in BY_NAME
    ],
)
def test_each_published_recipe_takes_its_dataset(recipe_name, known, start, tmp_path):
    """Those for 384 pixels differ in the network alone, so their data are only loaded."""
    recipe = load_recipe(recipe_name)
    dataset, data_dir = known(recipe.data.dataset)
    inputs = load_inputs(recipe.data.model_copy(update={"data_dir": str(data_dir)}))
    assert inputs.val is None
    if not recipe_name.endswith("_384"):
        mode = recipe.mode
        own = start if mode == "finetune" else None
        short = quick(mode, dataset, data_dir, start=own, recipe_name=recipe_name)
        result = train(short, out=tmp_path / "runs", inputs=inputs)
        assert result["steps"] == 2
        assert result["selects_on_test"]


def test_flowers_are_trained_on_train_or_on_train_and_val(known):
    _, data_dir = known("flowers102")
    paper = load_recipe("paper/finetune/flowers102").data
    both = load_inputs(paper.model_copy(update={"data_dir": str(data_dir)}))
    assert both.counts == {"train": 6, "test": 6}
    assert any("train and val are joined: 6" in note for note in both.dataset.notes)
    alone = paper.model_copy(update={"data_dir": str(data_dir), "train_on": "train"})
    assert load_inputs(alone).counts == {"train": 3, "val": 3, "test": 6}
    assert load_inputs(alone).fingerprint != both.fingerprint
    assert load_inputs(alone).label_fingerprint == both.label_fingerprint
    with pytest.raises(UsageError, match="digits has no val split"):
        load_inputs(load_recipe("scratch/digits", overrides={"data.train_on": "train+val"}).data)


def test_the_level_and_the_order_of_classes_come_from_the_recipe(known):
    _, data_dir = known("inat2018")
    overrides = {"data.data_dir": str(data_dir), "data.level": "genus", "data.class_order": "deit"}
    recipe = load_recipe("finetune/inat2018", overrides=overrides)
    inputs = load_inputs(recipe.data.model_copy(update={"val_fraction": 0.3}))
    assert inputs.class_names == ("Aix", "Amanita", "Anas")
    assert any("genus" in note for note in inputs.dataset.notes)


def test_what_only_scores_is_scored_by_name_and_not_trained_on(known, monkeypatch, tmp_path):
    """A run on some of ImageNet-V2's classes is scored on them, whatever order they are in."""
    adapter = imagenet_v2(tmp_path / "v2")
    adapters = {**catalog._adapters(), "imagenet-v2": adapter}
    monkeypatch.setattr(catalog, "_adapters", lambda: adapters)
    for split in ("train", "test"):
        write_tree(tmp_path / "own" / split, [*reversed(adapter.class_names), "other"], 2)
    run = train(quick("scratch", str(tmp_path / "own")), out=tmp_path / "runs")
    place = {"data.data_dir": str(tmp_path / "v2")}
    result = evaluate(Path(run["run"]), "imagenet-v2", overrides=place)
    assert result["num_test_images"] == 24
    with pytest.raises(DataError, match="imagenet-v2 has no train images") as caught:
        load_inputs(quick("scratch", "imagenet-v2", tmp_path / "v2").data)
    assert caught.value.hint.endswith("deit-transfer evaluate RUN imagenet-v2")


def test_any_of_several_right_answers_is_right(tmp_path, monkeypatch):
    adapter = imagenet_real(tmp_path / "real")
    for split in ("train", "test"):
        write_tree(tmp_path / "own" / split, [*adapter.class_names[::-1], "other"], 2)
    run = train(quick("scratch", str(tmp_path / "own")), out=tmp_path / "runs")

    def top1(answers):
        known = {"imagenet-real": replace(adapter, answers=answers)}
        monkeypatch.setattr(catalog, "_adapters", lambda: known)
        place = {"data.data_dir": str(tmp_path / "real")}
        result = evaluate(Path(run["run"]), "imagenet-real", overrides=place)
        assert result["num_test_images"] == sum(map(bool, answers))
        return result["top1"]

    single = [top1(((label,),) * 8) for label in range(4)]
    assert sum(single) <= 100  # the fifth class of the run is right for none
    assert top1(((0, 2),) * 8) == pytest.approx(single[0] + single[2])
    assert top1(((0, 1, 2, 3),) * 8) == pytest.approx(sum(single))
    assert top1(REAL_ANSWERS) <= 100


def test_one_dataset_through_three_doors(tmp_path, monkeypatch):
    """Folders, pickles and parquet give CIFAR-10 other names and other bytes, and equal labels.

    The parquet files hold the pickles' pixels in their order, so that both train to the same bits.
    """
    adapter = write_cifar(CIFAR10, tmp_path / "pickles", train=20, test=60)
    pickles = adapter.load(adapter.find(tmp_path / "pickles"))
    names = pickles.class_names
    for split, images in pickles.splits.items():
        encoded = []
        for index in range(len(images)):
            buffer = io.BytesIO()
            Image.fromarray(images.read(index)).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
            place = tmp_path / "tree" / split / names[images.labels[index]]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index:04d}.png").write_bytes(encoded[-1])
        file = tmp_path / "hub" / f"{split}.parquet"
        parquet(file, encoded, images.labels.tolist(), names=names, image="img")
    adapters = {**catalog._adapters(), "cifar10": adapter}
    monkeypatch.setattr(catalog, "_adapters", lambda: adapters)
    hub, tree = f"hf:{tmp_path / 'hub'}", str(tmp_path / "tree")
    doors = [pickles, catalog.load_dataset(hub), catalog.load_dataset(tree)]
    assert len({label_fingerprint(door.splits, door.class_names) for door in doors}) == 1
    results = [
        train(
            quick("scratch", name, data_dir, recipe_name="scratch/cifar10"), out=tmp_path / "runs"
        )
        for name, data_dir in (("cifar10", tmp_path / "pickles"), (hub, None))
    ]
    first, second = (
        safetensors.torch.load_file(Path(result["run"]) / "weights.safetensors")
        for result in results
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert results[0]["loss"] == results[1]["loss"]
