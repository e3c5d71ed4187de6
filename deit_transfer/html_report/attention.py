"""Attention maps of a run's tokens over a few test images, for its page."""

import numpy as np
import torch
from numpy.typing import NDArray

from deit_transfer.engine.distributed import World
from deit_transfer.errors import ImageError, UsageError
from deit_transfer.evaluation.tokens import attention_maps
from deit_transfer.html_report.mistakes import PagePredictions, Pictures, find_mistake_images
from deit_transfer.html_report.page_values import AttentionMap, AttentionRow
from deit_transfer.html_report.thumbnails import spotlight, thumbnail
from deit_transfer.models.pretrained import read_model
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import RunFolder
from deit_transfer.training import build

RIGHT_SHOWN, WRONG_SHOWN = 3, 1
PICK_SEED = 0
TOKENS = ("class token", "distillation token")
KINDS = {"last": "last layer", "rollout": "rollout"}


def attention_rows(
    folder: RunFolder, recipe: Recipe, answers: PagePredictions, pictures: Pictures
) -> list[AttentionRow]:
    """Return what each token attends to on a few images, as the network sees them.

    Empty where the images are not at hand, or for a network without a class token.

    Args:
        folder: A finished run's.
        recipe: The run's; says how images are shown to the network.
        answers: The run's answers.
        pictures: The test images.
    """
    if pictures.test is None:
        return []
    places = _chosen(answers)
    found = find_mistake_images(pictures.test, {str(answers.stored.ids[place]) for place in places})
    present = [place for place in places if str(answers.stored.ids[place]) in found]
    if not present:
        return []
    images = pictures.test.subset([found[str(answers.stored.ids[place])] for place in present])
    classifier, _ = read_model(folder.path, device=torch.device("cpu"))
    here = recipe.model_copy(
        update={"run": recipe.run.model_copy(update={"workers": 0, "eval_batch_size": len(images)})}
    )
    try:
        (batch,) = build.scoring_batches(here, images, classifier, World())
        maps = attention_maps(classifier, build.normalization(classifier)(batch.images))
    except (ImageError, UsageError):
        return []
    pixels = batch.images.permute(0, 2, 3, 1).numpy()  # (B, R, R, 3)
    return [
        AttentionRow(
            _caption(answers, present[place]),
            thumbnail(pixels[row]),
            [
                AttentionMap(
                    f"{TOKENS[token]}, {KINDS[kind]}", thumbnail(spotlight(pixels[row], shares))
                )
                for kind, by_image in maps.items()
                for token, shares in enumerate(by_image[row])
            ],
        )
        for row, place in enumerate(batch.indices.tolist())
    ]


def _chosen(answers: PagePredictions) -> list[int]:
    """Return the image of the highest loss, and some right ones of different classes."""
    true = answers.probabilities[np.arange(len(answers.labels)), answers.labels]  # (N,)
    worst = answers.wrong[np.argsort(true[answers.wrong], kind="stable")][:WRONG_SHOWN]
    right: NDArray[np.int64] = np.flatnonzero(answers.decisions == answers.labels)
    drawn = np.random.default_rng(PICK_SEED).permutation(right)
    _, first = np.unique(answers.labels[drawn], return_index=True)
    return [*drawn[np.sort(first)][:RIGHT_SHOWN].tolist(), *worst.tolist()]


def _caption(answers: PagePredictions, place: int) -> str:
    true = answers.class_names[answers.labels[place]]
    given = answers.class_names[answers.decisions[place]]
    return f"{true}, rightly named" if true == given else f"{true}, taken for {given}"
