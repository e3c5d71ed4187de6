"""The paper's figure stands only beside what it can be compared with."""

import pytest

from deit_transfer.paper.comparable import paper_beside

TINY, BASE_384 = "deit_tiny_patch16_224", "deit_base_distilled_patch16_384"


def beside(dataset: str, model: str, **facts: object) -> dict:
    usual = {
        "mode": "",
        "resolution": 224,
        "is_run": False,
        "trained_on": "",
        "start": "imagenet",
    }
    return paper_beside(dataset, model=model, **(usual | facts))


# Touvron et al., Table 5
@pytest.mark.parametrize(
    ("dataset", "model", "top1"),
    [
        ("imagenet", TINY, 72.2),
        ("imagenet-real", TINY, 80.1),
        ("imagenet-v2", TINY, 60.4),
        ("imagenet-v2", "deit_small_distilled_patch16_224", 70.0),
        ("imagenet-real", "regnety_160", 88.1),
        ("imagenet", "resnet50.tv_in1k", 76.2),
    ],
)
def test_published_weights_have_the_figures_of_table_5(dataset, model, top1) -> None:
    found = beside(dataset, model)
    assert found["paper_top1"] == top1
    assert "Table 5" in found["paper_label"]


def test_the_published_weights_at_384_are_those_of_1000_epochs() -> None:
    assert beside("imagenet", BASE_384, resolution=384)["paper_top1"] == 85.2
    others = beside("imagenet", BASE_384, resolution=384, start="mine.safetensors")
    assert others["paper_top1"] == 84.5


@pytest.mark.parametrize("dataset", ["imagenet-v2-threshold", "imagenet-v2-top", "cifar10"])
def test_what_the_paper_did_not_score_has_no_figure(dataset: str) -> None:
    assert beside(dataset, TINY) == {}


def test_a_run_has_a_figure_where_it_was_trained_as_the_papers_was() -> None:
    pretrained = {
        "is_run": True,
        "mode": "pretrain",
        "trained_on": "imagenet",
        "start": "none",
    }
    assert beside("imagenet-v2", TINY, **pretrained)["paper_top1"] == 60.4
    assert beside("imagenet-v2", TINY, **(pretrained | {"mode": "finetune"})) == {}
    tuned = {"is_run": True, "mode": "finetune", "trained_on": "cifar10"}
    assert beside("cifar10", "deit_base_patch16_224", **tuned)["paper_top1"] == 99.1
    assert beside("cifar100", "deit_base_patch16_224", **tuned) == {}
