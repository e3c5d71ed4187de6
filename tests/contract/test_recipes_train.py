"""Every shipped recipe builds its pipeline and takes two steps on a miniature of its dataset.

In place of the network a tiny one of the same kind is trained, at 32 pixels, in batches of four,
at a rate that suits it, and a tiny run is start and teacher; all else is the recipe's own. Its
images are also made once at the recipe's own number of pixels.
"""

import math

import pytest
import torch
from miniatures import imagenet
from short_runs import BY_NAME, quick

from deit_transfer.engine.distributed import World
from deit_transfer.models.pretrained import NONE, read_pretrained
from deit_transfer.recipe.durations import resolution_at
from deit_transfer.recipe.loader import list_recipes, load_recipe
from deit_transfer.training import build
from deit_transfer.training.data_splits import load_splits
from deit_transfer.training.train import train

pytestmark = pytest.mark.usefixtures("untimed")

OF_IMAGENET = ("pretrain", "ablation")  # families whose recipes name no dataset


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Return a run that has learned ImageNet's miniature: a teacher at chance is refused."""
    root = tmp_path_factory.mktemp("teacher")
    imagenet(root / "data")
    plainly = {
        "augment.policy": "none",
        "augment.mixup": 0.0,
        "augment.cutmix": 0.0,
        "augment.crop_scale_min": 1.0,
        "augment.hflip": 0.0,
        "model.drop_path": 0.0,
        "data.select": "last",
        "schedule.batch_size": 12,
        "schedule.max_steps": 40,
        "schedule.min_steps": 40,
        "optim.peak_lr": 0.1,  # 0.0023 after scaling
    }
    recipe = quick("scratch", str(root / "data"), changes=plainly)
    return train(recipe, out=root / "runs")["run"]


def miniature_of(name):
    """Return which miniature a recipe is tried on."""
    dataset = load_recipe(name).data.dataset
    if dataset in BY_NAME or dataset == "digits":
        return dataset
    return "imagenet" if name.partition("/")[0] in OF_IMAGENET else "folder"


def tiny_network(recipe):
    """Return a small network of the same kind."""
    if recipe.mode == "teacher":
        return "resnet10t"
    return "deit_micro_distilled" if "distilled" in recipe.model.name else "deit_micro"


def own_side(recipe):
    """Return the pixels that a recipe's own network takes."""
    own = recipe.model.name[-3:]
    return recipe.model.resolution or (int(own) if own.isdigit() else 32)


def first_images(recipe, splits, side):
    """Return a batch (B, 3, R, R) as the recipe's pipeline makes it for a network of `side`."""
    changed = recipe.model.model_copy(update={"resolution": side, "pretrained": NONE})
    recipe = recipe.model_copy(update={"model": changed})
    start, cpu = read_pretrained(NONE, model_name=recipe.model.name), torch.device("cpu")
    network, _ = build.network(recipe, splits.class_names, start, cpu)
    plan = build.durations(recipe, num_images=len(splits.train))
    steps = build.batches(recipe, splits, network, plan, start_step=0, world=World())
    images, targets = build.batch_transforms(recipe, network, cpu)(
        next(iter(steps)).micro_batches[0]
    )
    assert targets.sum(dim=1) == pytest.approx(1.0)
    return images


@pytest.mark.parametrize("name", list_recipes())
def test_each_recipe_builds_its_pipeline_and_takes_two_steps(name, known, start, teacher, tmp_path):
    recipe = load_recipe(name)
    dataset, data_dir = known(miniature_of(name))
    changes = {"model.name": tiny_network(recipe)}
    if recipe.distill.teacher is not None:
        changes["distill.teacher"] = teacher
    own = start if recipe.mode == "finetune" else None
    if recipe.mode == "teacher":
        changes["model.pretrained"] = "none"
    short = quick(recipe.mode, dataset, data_dir, start=own, recipe_name=name, changes=changes)
    splits = load_splits(short.data)
    side = own_side(recipe)
    wanted = resolution_at(recipe.schedule, epoch=0, epochs=recipe.schedule.epochs, resolution=side)
    assert first_images(short, splits, side).shape[1:] == (3, wanted, wanted)
    result = train(short, out=tmp_path / "runs", splits=splits)
    assert result["steps"] == 2
    assert math.isfinite(result["loss"])
    assert result["num_test_images"] == len(splits.test)
    assert result["selects_on_test"] == (recipe.data.select == "test")
    assert ("teacher_top1" in result) == (recipe.distill.teacher is not None)
