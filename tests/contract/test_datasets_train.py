"""Every dataset's miniature is checked, tuned on and trained on from scratch, as a user would."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from miniatures import REAL_ANSWERS, imagenet_real, imagenet_v2, parquet
from PIL import Image
from short_runs import BY_ADDRESS, BY_NAME, TINY, held_out, quick
from test_adapters import CIFAR10, write_cifar, write_tree
from typer.testing import CliRunner

from deit_transfer.cli.app import app
from deit_transfer.data import catalog
from deit_transfer.data.fingerprint import label_fingerprint
from deit_transfer.errors import DataError, UsageError
from deit_transfer.evaluation.evaluate import evaluate
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.training.callbacks import NoCallbacks
from deit_transfer.training.choose_recipe import default_recipe
from deit_transfer.training.data_splits import load_splits
from deit_transfer.training.plan import plan
from deit_transfer.training.train import train

pytestmark = pytest.mark.usefixtures("untimed")


def command(*arguments):
    """Run a command with --json and return its object."""
    ended = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert ended.exit_code == 0, (ended.exception, ended.stdout)
    return json.loads(ended.stdout)


def place(data_dir):
    return () if data_dir is None else ("--data-dir", data_dir)


def settings(values):
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("name", [*BY_NAME, *BY_ADDRESS])
def test_each_dataset_is_checked_and_trained_on_for_an_epoch(name, known, start, tmp_path):
    dataset, data_dir = known(name)
    report = command("data", "check", dataset, *place(data_dir))
    assert report["problems"] == []
    for mode in ("finetune", "scratch"):
        changes = TINY | held_out(default_recipe(mode, dataset))
        if name == "cifar100":
            changes["schedule.batch_size"] = 16  # it has more images than the other miniatures
        if name == "digits":
            changes["data.train_limit"] = 60  # it is no miniature
        source = ("--from", start) if mode == "finetune" else ()
        where = ("--epochs", 1, "--out", tmp_path / "runs")
        result = command(mode, dataset, *source, *place(data_dir), *where, *settings(changes))
        assert result["mode"] == mode
        assert result["epochs"] == 1
        assert result["images_seen"] == result["counts"]["train"]
        assert result["num_test_images"] == report["counts"]["test"]
        assert 0 <= result["top1"] <= 100
        recipe = load_recipe(str(Path(result["run"]) / "recipe.toml"))
        assert recipe.title == load_recipe(default_recipe(mode, dataset)).title


@pytest.mark.parametrize(
    ("name", "write", "images"),
    [("imagenet-v2", imagenet_v2, 24), ("imagenet-real", imagenet_real, 6)],
)
def test_what_only_scores_is_checked(name, write, images, offer, tmp_path):
    offer(write(tmp_path))
    report = command("data", "check", name, "--data-dir", tmp_path)
    assert report["problems"] == []
    assert report["counts"] == {"test": images}


class Heard(NoCallbacks):
    """Remember what is said of a dataset before training begins."""

    def __init__(self):
        self.amounts = []

    def loading(self, dataset, done, total):
        self.amounts.append((dataset, done, total))


def test_a_run_and_its_plan_say_how_far_the_dataset_is(known, tmp_path, monkeypatch):
    dataset, _ = known("hub")
    heard, planned = Heard(), []
    train(quick("scratch", dataset), out=tmp_path / "runs", callbacks=heard)
    size = sum(path.stat().st_size for path in (tmp_path / "data").rglob("train-*.parquet"))
    of_train = [amount for amount in heard.amounts if amount[2] == size]
    assert of_train[-1] == (dataset, size, size)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))  # where nothing is unpacked
    plan(quick("scratch", dataset), out=tmp_path, progress=lambda *amount: planned.append(amount))
    assert planned == [amount[1:] for amount in heard.amounts]


def test_flowers_are_trained_on_train_or_on_train_and_val(known):
    _, data_dir = known("flowers102")
    paper = load_recipe("paper/finetune/flowers102").data
    both = load_splits(paper.model_copy(update={"data_dir": str(data_dir)}))
    assert both.counts == {"train": 6, "test": 6}
    assert any("train and val are joined: 6" in note for note in both.dataset.notes)
    alone = paper.model_copy(update={"data_dir": str(data_dir), "train_on": "train"})
    assert load_splits(alone).counts == {"train": 3, "val": 3, "test": 6}
    assert load_splits(alone).fingerprint != both.fingerprint
    assert load_splits(alone).label_fingerprint == both.label_fingerprint
    with pytest.raises(UsageError, match="digits has no val split"):
        load_splits(load_recipe("scratch/digits", overrides={"data.train_on": "train+val"}).data)


def test_the_level_and_the_order_of_classes_come_from_flag_and_recipe(known, tmp_path):
    _, data_dir = known("inat2018")
    genus, order = ("--rank", "genus"), ("--set", "data.class_order=deit")
    report = command("data", "check", "inat2018", *place(data_dir), *genus, *order)
    assert report["class_names"] == ["Aix", "Amanita", "Anas"]
    assert any("genus" in note for note in report["notes"])
    result = command(
        "scratch", "inat2018", *place(data_dir), *genus, "--out", tmp_path / "runs",
        "--epochs", 1, *settings(TINY | held_out("scratch/inat2018")),
    )  # fmt: skip
    assert load_recipe(str(Path(result["run"]) / "recipe.toml")).data.rank == "genus"
    classes = json.loads((Path(result["run"]) / "classes.json").read_text())
    assert classes == {"class_names": ["Aix", "Amanita", "Anas"]}
    # a run of genera is asked about genera, without saying so again
    again = command("evaluate", result["run"], "inat2018", *place(data_dir))
    assert again["top1"] == result["top1"]
    assert again["num_test_images"] == result["num_test_images"]
    refused = CliRunner().invoke(app, ["data", "check", "digits", "--set", "data.train_limit=50"])
    assert isinstance(refused.exception, UsageError)
    assert "data.train_limit changes nothing there" in str(refused.exception)


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
        load_splits(quick("scratch", "imagenet-v2", tmp_path / "v2").data)
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
        safetensors.torch.load_file(Path(result["run"]) / "model.safetensors") for result in results
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert results[0]["loss"] == results[1]["loss"]
