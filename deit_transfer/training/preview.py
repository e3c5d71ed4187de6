"""Draw a dataset's images as the training pipeline of a recipe augments them, in one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deit_transfer.batch import Batch
from deit_transfer.data.dataset import Progress
from deit_transfer.data.pipeline.decode import read_rgb
from deit_transfer.engine.distributed import World
from deit_transfer.engine.seed import seed_batch_transforms
from deit_transfer.models.classifier import Classifier
from deit_transfer.models.pretrained import NONE, read_pretrained
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.plot_style import check_png
from deit_transfer.report.preview_grid import PreviewCell, preview_png
from deit_transfer.training import build
from deit_transfer.training.choose_recipe import default_recipe
from deit_transfer.training.data_splits import DataSplits, load_whole_dataset
from deit_transfer.training.header import describe_augmentation

VIEWS = 3  # epochs shown of each image
_SHOWN_SHARE = 0.005  # a smaller share of a mixed label is left out


def preview(
    dataset: str,
    *,
    path: Path,
    num_images: int = 8,
    recipe_name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw training images beside their views of a few epochs and the mixed input of the network.

    Args:
        dataset: Catalog name, address or folder.
        path: The PNG to write.
        num_images: Rows of the grid; the images are of different classes where they can be.
        recipe_name: Whose pipeline; the dataset's default recipe for fine-tuning when None.
        overrides: Recipe settings by dotted location.
        progress: Called while the dataset is downloaded or unpacked.

    Returns:
        What was drawn, as plain values.
    """
    check_png(path)
    name = recipe_name or default_recipe("finetune", dataset)
    recipe = load_recipe(name, overrides={"data.dataset": dataset, **(overrides or {})})
    official = load_whole_dataset(recipe.data, progress=progress)
    train = official.splits["train"]
    shown = train.subset(_pick(train.labels, num_images, recipe.run.seed))
    splits = DataSplits(
        dataset=official,
        train=shown,
        val=None,
        test=shown,
        select="last",
        fingerprint="",
        label_fingerprint="",
    )
    network, views = _views(recipe, splits)
    rows = [
        [
            PreviewCell(read_rgb(shown, index), official.class_names[shown.labels[index]]),
            *(PreviewCell(_pixels(batch, index), "") for batch, _, _ in views),
            *_mixed(network, views[0], index, recipe, official.class_names),
        ]
        for index in range(len(shown))
    ]
    columns = ["original", *(f"epoch {epoch + 1}" for epoch in range(VIEWS)), "epoch 1, as input"]
    pipeline = describe_augmentation(recipe.augment)
    preview_png(path, rows, columns=columns, title=f"{official.info.title}, {name}: {pipeline}")
    return {
        "dataset": official.info.title,
        "recipe": name,
        "pipeline": pipeline,
        "resolution": network.resolution,
        "images": [shown.ids[index] for index in range(len(shown))],
        "figure": str(path),
    }


View = tuple[Batch, Tensor, Tensor]  # a batch, what the network gets of it, and its targets


def _views(recipe: Recipe, splits: DataSplits) -> tuple[Classifier, list[View]]:
    """Run the training pipeline over the images, all in one batch, for a few epochs."""
    length = {
        "epochs": VIEWS,
        "min_steps": 0,
        "max_steps": None,
        "batch_size": len(splits.train),
        "micro_batch_size": None,
        "progressive": (),
    }
    recipe = recipe.model_copy(
        update={
            "compat": "none",
            "schedule": recipe.schedule.model_copy(update=length),
            "augment": recipe.augment.model_copy(update={"repeats": 1}),
            "run": recipe.run.model_copy(update={"workers": 0, "device": "cpu"}),
        }
    )
    start = read_pretrained(NONE, model_name=recipe.model.name)
    cpu = torch.device("cpu")
    classifier, _ = build.network(recipe, splits.class_names, start, cpu)
    prepare = build.batch_transforms(recipe, classifier, cpu)
    plan = build.durations(recipe, num_images=len(splits.train))
    views: list[View] = []
    for step in build.batches(recipe, splits, classifier, plan, start_step=0, world=World()):
        (batch,) = step.micro_batches
        seed_batch_transforms(build.augment_seed(recipe), step.step, 0)
        views.append((batch, *prepare(batch)))
    return classifier, views


def _pick(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Choose images (M,), of different classes first."""
    order = np.random.default_rng(seed).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), first)
    return order[np.concatenate([np.sort(first), rest])][:count]


def _place(batch: Batch, index: int) -> int:
    """Return where an image stands in a batch, which is shuffled anew each epoch."""
    return int((batch.indices == index).nonzero()[0, 0])


def _pixels(batch: Batch, index: int) -> NDArray[np.uint8]:
    return batch.images[_place(batch, index)].permute(1, 2, 0).numpy()  # (R, R, 3)


def _mixed(
    network: Classifier, view: View, index: int, recipe: Recipe, class_names: Sequence[str]
) -> list[PreviewCell]:
    """Return what the network gets for an image, with the classes it is told, in percent."""
    batch, images, targets = view
    place = _place(batch, index)
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.mean, network.std))
    pixels = ((images[place] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    smoothing = recipe.augment.smoothing
    shares = (targets[place] - smoothing / len(class_names)) / (1 - smoothing)  # (K,)
    told = [
        f"{class_names[label]} {100 * float(shares[label]):.0f}%"
        for label in shares.argsort(descending=True)[:2].tolist()
        if shares[label] > _SHOWN_SHARE
    ]
    return [PreviewCell(pixels.permute(1, 2, 0).numpy(), " + ".join(told))]
