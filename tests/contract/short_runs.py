"""Every dataset's miniature by the name that a command takes, and recipes cut to moments."""

from miniatures import cars, flowers, hub_folder, imagenet, inat, shard_address, table
from test_adapters import CIFAR10, CIFAR100, write_cifar, write_tree

from deit_transfer.recipe.loader import load_recipe
from deit_transfer.training.choose_recipe import choose_recipe, default_recipe


def cifar10(root):
    return write_cifar(CIFAR10, root, train=10, test=10)


def cifar100(root):
    return write_cifar(CIFAR100, root, train=200, test=100)


def folder(root):
    for split in ("train", "test"):
        write_tree(root / "photos" / split, ["ant", "bee"], 6)
    return str(root / "photos")


# what writes a miniature and returns the adapter that expects it
BY_NAME = {
    "cars": cars,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "flowers102": flowers,
    "imagenet": imagenet,
    "inat2018": inat,
    "inat2019": lambda root: inat(root, year="2019"),
}
# what writes a miniature and returns its address
BY_ADDRESS = {
    "digits": lambda root: "digits",
    "folder": folder,
    "hub": hub_folder,
    "shards": shard_address,
    "table": table,
}

# A network of moments; the rest is as the recipe has it.
TINY = {
    "model.name": "deit_micro",
    "model.resolution": 32,
    "schedule.batch_size": 4,
    "optim.peak_lr": 1e-2,
    "optim.floor_lr": 0.0,
    "optim.warmup_lr": 0.0,
    "run.attention": "fused",
    "run.device": "cpu",
    "run.workers": 0,
}
TWO_STEPS = {"schedule.max_steps": 2, "schedule.min_steps": 0}


def quick(mode, dataset, data_dir=None, *, start=None, recipe_name=None, changes=None):
    """Return a dataset's own recipe, cut to two steps of a tiny network."""
    name = recipe_name or default_recipe(mode, dataset)
    overrides = TINY | TWO_STEPS | held_out(name) | (changes or {})
    if data_dir is not None:
        overrides["data.data_dir"] = str(data_dir)
    return choose_recipe(mode, dataset, recipe_name=recipe_name, start=start, overrides=overrides)


def held_out(recipe_name):
    """Return what lets a recipe carve validation images from a miniature."""
    share = load_recipe(recipe_name).data.val_fraction
    return {"data.val_fraction": 0.3} if share > 0 else {}  # a tenth of a miniature is no image
