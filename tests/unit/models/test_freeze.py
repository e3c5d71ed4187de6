"""Which parameters each freeze policy leaves trainable."""

import pytest

from deit_transfer.errors import UsageError
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.freeze import freeze

HEADS = {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def build_micro() -> Classifier:
    return build_classifier(name="deit_micro_distilled", num_classes=3)


def trainable(classifier: Classifier) -> set[str]:
    return {name for name, p in classifier.backbone.named_parameters() if p.requires_grad}


def test_none_trains_everything_again() -> None:
    classifier = build_micro()
    freeze(classifier, "head")
    names = freeze(classifier, "none")
    assert names == [name for name, _ in classifier.backbone.named_parameters()]
    assert trainable(classifier) == set(names)


def test_head_trains_both_heads_only() -> None:
    classifier = build_micro()
    assert set(freeze(classifier, "head")) == trainable(classifier) == HEADS


def test_attention_trains_attention_positions_and_heads() -> None:
    classifier = build_micro()
    attention = {
        f"blocks.{block}.attn.{layer}.{kind}"
        for block in range(4)
        for layer in ("qkv", "proj")
        for kind in ("weight", "bias")
    }
    assert set(freeze(classifier, "attention")) == HEADS | attention | {"pos_embed"}


def test_last_n_trains_the_last_blocks_and_the_final_norm() -> None:
    classifier = build_micro()
    names = set(freeze(classifier, "last-1"))
    last_block = {
        f"blocks.3.{name}" for name, _ in classifier.backbone.blocks[3].named_parameters()
    }
    assert names == HEADS | last_block | {"norm.weight", "norm.bias"}
    assert not any(name.startswith("blocks.3") for name in names - last_block)
    assert len(freeze(classifier, "last-4")) > len(names)


def test_a_convnet_keeps_its_own_head() -> None:
    classifier = build_classifier(name="resnet10t", num_classes=3, resolution=64)
    assert freeze(classifier, "head") == ["fc.weight", "fc.bias"]
    with pytest.raises(UsageError, match="needs a vision transformer"):
        freeze(classifier, "attention")


@pytest.mark.parametrize("policy", ["heads", "last", "last-x", "last--1", ""])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    with pytest.raises(UsageError, match="none, head, attention, last-N"):
        freeze(build_micro(), policy)


@pytest.mark.parametrize("policy", ["last-0", "last-5"])
def test_more_blocks_than_there_are_is_refused(policy: str) -> None:
    with pytest.raises(UsageError, match=r"N is in 1\.\.4"):
        freeze(build_micro(), policy)
