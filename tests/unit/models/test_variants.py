"""The table of variants against timm's own networks, and the lookup's refusals."""

import pytest
import timm
import torch

from deit_transfer.errors import UsageError
from deit_transfer.models.variants import VARIANTS, check_resolution, find_variant


@pytest.mark.parametrize("name", [name for name, v in VARIANTS.items() if v.is_deit])
def test_the_table_states_the_network_that_timm_builds(name: str) -> None:
    variant = VARIANTS[name]

    with torch.device("meta"):  # shapes only
        network = timm.create_model(
            variant.timm_name,
            img_size=variant.resolution,
            num_classes=variant.num_classes,
            **variant.model_args,
        )

    assert variant.parameters == sum(p.numel() for p in network.parameters())
    assert variant.embed_dim == network.embed_dim
    assert variant.depth == len(network.blocks)
    assert variant.num_heads == network.blocks[0].attn.num_heads
    assert (variant.patch_size, variant.patch_size) == network.patch_embed.patch_size
    assert variant.distilled == hasattr(network, "head_dist")


def test_every_published_variant_has_a_source_in_timm() -> None:
    for variant in VARIANTS.values():
        if variant.has_published_weights:
            config = timm.get_pretrained_cfg(variant.timm_name)
            assert config.hf_hub_id == f"timm/{variant.timm_name}"
            assert config.input_size[-1] == variant.resolution


def test_the_bare_teacher_name_means_the_paper_s_weights() -> None:
    assert find_variant("regnety_160").timm_name == "regnety_160.deit_in1k"


def test_a_variant_spelled_with_its_weight_tag_is_the_variant() -> None:
    assert find_variant("deit_tiny_patch16_224.fb_in1k") is VARIANTS["deit_tiny_patch16_224"]


def test_any_timm_network_is_found() -> None:
    variant = find_variant("resnet18.a1_in1k")
    assert (variant.name, variant.resolution) == ("resnet18.a1_in1k", 224)
    assert not variant.fixed_resolution
    assert variant.has_published_weights


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("deit_tiny_patch16_22", "deit_tiny_patch16_224"),
        ("resnet18.bogus_in1k", "resnet18.gluon_in1k"),
        ("deit-micro", "deit_micro"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match="unknown model") as caught:
        find_variant(name)
    assert name in caught.value.message
    assert suggestion in caught.value.hint


def test_a_wrong_resolution_names_the_nearest_right_ones() -> None:
    tiny = VARIANTS["deit_tiny_patch16_224"]
    check_resolution(tiny, 384)
    with pytest.raises(UsageError, match="nearest are 224 and 240"):
        check_resolution(tiny, 230)
    with pytest.raises(UsageError, match="nearest are 16"):
        check_resolution(tiny, 7)
    with pytest.raises(UsageError, match="positive multiple"):
        check_resolution(tiny, 0)
