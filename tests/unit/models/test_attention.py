"""Attention weights against queries and keys multiplied by hand, the rollout against loops."""

import numpy as np
import pytest
import torch

from deit_transfer.errors import UsageError
from deit_transfer.models.attention import (
    attention_by_layer,
    rollout,
    token_backbone,
    token_maps,
)
from deit_transfer.models.classifier import Classifier, build_classifier, set_attention


def micro(name: str = "deit_micro_distilled") -> Classifier:
    torch.manual_seed(0)
    classifier = build_classifier(name=name, num_classes=3, resolution=16).eval()
    for parameter in classifier.parameters():  # so that attention is far from uniform
        parameter.data *= 4
    return classifier


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def by_hand(classifier: Classifier, pixels: torch.Tensor) -> torch.Tensor:
    """Walk through the blocks, and return softmax(q k / sqrt(d)), (L, B, M, M), heads averaged."""
    backbone = classifier.backbone
    patches = backbone.patch_embed(pixels)
    tokens = [getattr(backbone, name) for name in ("cls_token", "dist_token")]
    present = [token.expand(len(pixels), -1, -1) for token in tokens if token is not None]
    values = torch.cat([*present, patches], dim=1) + backbone.pos_embed
    layers = []
    for block in backbone.blocks:
        seen = block.norm1(values)
        rows, columns = seen.shape[1], seen.shape[2]
        projected = seen @ block.attn.qkv.weight.T + block.attn.qkv.bias
        query, key, _ = projected.split(columns, dim=-1)
        heads = []
        for head in range(3):
            part = slice(head * columns // 3, (head + 1) * columns // 3)
            scores = query[..., part] @ key[..., part].mT / (columns // 3) ** 0.5
            heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
        assert heads[0].shape[-2:] == (rows, rows)
        layers.append(torch.stack(heads).mean(0))
        values = block(values)
    return torch.stack(layers)


@pytest.mark.parametrize("attention", ["fused", "plain"])
def test_weights_are_those_of_queries_and_keys(attention: str) -> None:
    classifier = micro()
    set_attention(classifier, attention)
    weights = attention_by_layer(classifier, images())
    assert weights.shape == (4, 2, 18, 18)
    torch.testing.assert_close(weights, by_hand(classifier, images()), rtol=1e-4, atol=1e-6)
    assert weights.std() > 0.01  # not what an untrained network gives anyway


def test_the_network_is_left_as_it_was() -> None:
    classifier = micro()
    set_attention(classifier, "fused")
    before = classifier(images()).class_logits
    attention_by_layer(classifier, images())
    assert all(block.attn.fused_attn for block in classifier.backbone.blocks)
    assert not any(block.attn.attn_drop._forward_hooks for block in classifier.backbone.blocks)
    assert torch.equal(classifier(images()).class_logits, before)


def test_a_fault_on_the_way_leaves_it_as_it_was_too() -> None:
    classifier = micro()
    set_attention(classifier, "fused")
    with pytest.raises(AssertionError):
        attention_by_layer(classifier, torch.zeros(1, 3, 8, 8))  # another resolution
    assert all(block.attn.fused_attn for block in classifier.backbone.blocks)
    assert not any(block.attn.attn_drop._forward_hooks for block in classifier.backbone.blocks)


def test_a_training_network_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        attention_by_layer(micro().train(), images())


def test_the_rollout_is_that_of_loops() -> None:
    weights = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(2)).softmax(-1)
    flow = rollout(weights)
    for image in range(2):
        expected = np.eye(5)
        for layer in range(3):
            mixed = 0.5 * weights[layer, image].numpy() + 0.5 * np.eye(5)
            expected = np.array(
                [
                    [sum(mixed[i, k] * expected[k, j] for k in range(5)) for j in range(5)]
                    for i in range(5)
                ]
            )
        np.testing.assert_allclose(flow[image].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(flow.sum(-1), torch.ones(2, 5))


def test_maps_are_the_tokens_rows_on_the_grid() -> None:
    flow = torch.arange(2 * 8 * 8).reshape(2, 8, 8).float()
    maps = token_maps(flow, num_tokens=2, grid=(2, 3))
    assert maps.shape == (2, 2, 2, 3)
    assert maps[1, 1].tolist() == [[74, 75, 76], [77, 78, 79]]  # row 1 of image 1, from column 2


def test_a_plain_network_has_a_class_token_and_a_convnet_none() -> None:
    assert token_backbone(micro("deit_micro")).num_prefix_tokens == 1
    convnet = build_classifier(name="resnet10t", num_classes=3, resolution=64).eval()
    with pytest.raises(UsageError, match="no class token"):
        attention_by_layer(convnet, torch.zeros(1, 3, 64, 64))
