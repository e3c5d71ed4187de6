"""The model that is trained where none was named: the recipe's, or the weights' own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deit_transfer.experiments.arms import choose_arms
from deit_transfer.models.classifier import build_classifier
from deit_transfer.training.choose_recipe import choose_recipe, model_of_weights

OWN = "deit_small_patch16_224"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(0)
    network = build_classifier(name="deit_micro_distilled", num_classes=3)
    save_file(dict(network.backbone.state_dict()), tmp_path / "w.safetensors")
    return str(tmp_path / "w.safetensors")


def test_weights_of_another_size_bring_their_network(weights: str) -> None:
    told: list[str] = []
    recipe = choose_recipe("finetune", "photos", start=weights, tell=told.append)
    assert recipe.model.name == "deit_micro"
    note = f"the weights {weights} are of deit_micro, which is trained; --model names another"
    assert told == [note]


def test_with_a_teacher_it_is_the_distilled_one(weights: str) -> None:
    taught = {"distill.teacher": "resnet18"}
    recipe = choose_recipe("finetune", "photos", start=weights, overrides=taught)
    assert recipe.model.name == "deit_micro_distilled"


def test_a_model_or_a_recipe_that_was_named_stays(weights: str) -> None:
    told: list[str] = []
    named = {"model.name": OWN}
    by_flag = choose_recipe("finetune", "photos", start=weights, overrides=named, tell=told.append)
    assert by_flag.model.name == OWN
    default = choose_recipe("finetune", "photos", start="imagenet", tell=told.append)
    by_recipe = choose_recipe(
        "finetune", "photos", recipe_name="finetune/folder", start=weights, tell=told.append
    )
    assert by_recipe.model.name == default.model.name
    assert told == []


@pytest.mark.parametrize("same", ["deit_micro", "deit_micro_distilled"])
def test_a_network_of_the_same_size_stays(weights: str, same: str) -> None:
    assert model_of_weights(weights, like=same) == same


def test_weights_that_cannot_be_read_are_left_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("no weights")
    assert model_of_weights(str(tmp_path / "w.pth"), like=OWN) == OWN
    assert model_of_weights(str(tmp_path / "nothing.pth"), like=OWN) == OWN
    assert model_of_weights("imagenet", like=OWN) == OWN


def test_all_arms_of_a_comparison_train_the_same_network(weights: str) -> None:
    arms = choose_arms(
        ("scratch", "finetune"), "photos", start=weights, recipe_names={}, overrides={}
    )
    assert [arm.recipe.model.name for arm in arms] == ["deit_micro", "deit_micro"]
