"""The paper's figures: the right cell of the right table, and no figure where there is none."""

import pytest

from deit_transfer.paper.values import IMAGENET, SCRATCH, TRANSFER, paper_top1


@pytest.mark.parametrize(
    ("dataset", "model", "mode", "resolution", "top1"),
    [
        ("cifar10", "deit_base_patch16_224", "finetune", None, 99.1),
        ("cifar100", "deit_base_distilled_patch16_224", "finetune", None, 91.3),
        ("cifar100", "deit_base_distilled_patch16_384", "finetune", None, 91.4),
        ("flowers102", "deit_base_patch16_224", "finetune", 384, 98.5),
        ("Stanford-Cars", "deit_base_distilled_patch16_224", "finetune", 384, 93.9),
        ("inaturalist2018", "deit_base_patch16_384", "finetune", None, 79.5),
        ("inat2019", "deit_base_distilled_patch16_224", "finetune", None, 78.4),
        ("cifar10", "deit_base_patch16_224", "scratch", None, 97.5),
        ("cifar10", "deit_base_distilled_patch16_224", "scratch", None, 98.5),
        ("cifar10", "regnety_160", "scratch", None, 98.0),
        ("imagenet", "deit_small_distilled_patch16_224", "pretrain", None, 81.2),
        ("imagenet", "deit_base_patch16_384", "finetune", None, 83.1),
    ],
)
def test_the_models_own_figure(dataset, model, mode, resolution, top1):
    found = paper_top1(dataset, model, mode, resolution=resolution)
    assert found.top1 == top1
    assert found.same_model
    assert "ICML 2021" in found.source


def test_a_smaller_model_gets_deit_b_and_says_so():
    found = paper_top1("cifar10", "deit_tiny_distilled_patch16_224", "finetune")
    assert (found.top1, found.model, found.same_model) == (99.1, "DeiT-B distilled", False)
    assert "gives none for this model" in found.label


def test_another_resolution_is_not_the_papers():
    found = paper_top1("cifar10", "deit_base_patch16_224", "finetune", resolution=112)
    assert (found.top1, found.same_model) == (99.1, False)
    assert paper_top1("cifar10", "deit_base_patch16_224", "scratch", resolution=384).top1 == 97.5


@pytest.mark.parametrize(
    ("dataset", "model", "mode"),
    [
        ("digits", "deit_base_patch16_224", "finetune"),
        ("my-photos", "deit_tiny_patch16_224", "finetune"),
        ("cifar100", "deit_base_patch16_224", "scratch"),
        ("cifar10", "deit_micro", "finetune"),
        ("cifar10", "resnet50", "finetune"),
        ("cifar10", "regnety_160", "finetune"),
        ("cifar10", "deit_base_patch16_224", "teacher"),
    ],
)
def test_no_figure_where_the_paper_has_none(dataset, model, mode):
    assert paper_top1(dataset, model, mode) is None


def test_tables_are_whole():
    assert {len(row) for row in TRANSFER.values()} == {7}
    values = [v for row in TRANSFER.values() for v in row if v is not None]
    values += [*IMAGENET.values(), *(v for row in SCRATCH.values() for v in row.values())]
    assert all(70 < value < 100 for value in values)
    # column sums of Table 6, added by hand from the printed page
    assert sum(row[1] for row in TRANSFER.values()) == pytest.approx(887.1)
    assert sum(row[2] for row in TRANSFER.values()) == pytest.approx(802.9)
    assert sum(row[3] for row in TRANSFER.values()) == pytest.approx(844.4)
