"""Where settings meet classes: the evaluation crop, the micro-batch, the seed of the views."""

import pytest

from deit_transfer.engine.distributed import World
from deit_transfer.models.classifier import build_classifier
from deit_transfer.recipe.loader import check_values
from deit_transfer.training import build


def recipe_with(**sections: object) -> build.Recipe:
    return check_values({"mode": "finetune", **sections}, where="test")


@pytest.mark.parametrize(
    ("sections", "crop"),
    [
        ({}, 0.9),
        ({"compat": "deit"}, 0.875),
        ({"augment": {"crop_pct": 1.0}}, 1.0),
        ({"compat": "deit", "augment": {"crop_pct": 1.0}}, 1.0),
    ],
)
def test_the_evaluation_crop_is_what_is_asked_for_else_timms_or_the_references(
    sections: dict[str, object], crop: float
) -> None:
    assert build.evaluation_crop(recipe_with(**sections)) == crop


def test_a_micro_batch_is_what_is_asked_for_else_a_process_share() -> None:
    world = World(rank=0, size=3, local_rank=0)
    assert build.micro_batch_size(recipe_with(schedule={"batch_size": 64}), world) == 22
    given = {"batch_size": 64, "micro_batch_size": 8}
    assert build.micro_batch_size(recipe_with(schedule=given), world) == 8


def test_the_augmentations_seed_is_the_runs_unless_it_has_its_own() -> None:
    assert build.augment_seed(recipe_with(run={"seed": 5})) == 5
    assert build.augment_seed(recipe_with(run={"seed": 5}, augment={"seed": 0})) == 0


@pytest.mark.parametrize(
    ("name", "resolution", "batch_size", "size"),
    [
        ("deit_tiny_patch16_224", 224, 64, 32),
        ("deit_tiny_patch16_224", 224, 32, None),  # nothing to cut
        ("deit_tiny_patch16_224", 112, 128, None),
        ("deit_tiny_patch16_224", 112, 256, 128),
        ("resnet10t", 224, 64, None),  # its batch norms would see the difference
    ],
)
def test_on_a_cpu_a_large_micro_batch_goes_forward_in_parts(
    name: str, resolution: int, batch_size: int, size: int | None
) -> None:
    classifier = build_classifier(name=name, num_classes=2, resolution=resolution)
    recipe = recipe_with(schedule={"batch_size": batch_size})
    assert build.forward_size(recipe, classifier, World()) == size
