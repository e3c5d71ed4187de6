"""Attention maps: what a vision transformer's class and distillation tokens attend to.

Shapes: B images, L blocks, H heads, M positions (tokens, then patches), T tokens, an h x w grid
of patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deit_transfer.errors import UsageError
from deit_transfer.models.classifier import Classifier


@torch.no_grad()
def attention_by_layer(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the attention weights (L, B, M, M) of each block, averaged over its heads.

    Row i says how much position i takes from each position; rows sum to 1. They are the weights
    that the network itself multiplies its values by: fused attention, which never holds them, is
    switched off meanwhile.

    Args:
        classifier: In evaluation mode.
        images: Normalized, (B, 3, H, W).

    Raises:
        UsageError: The network has no class token, or its blocks compute attention otherwise.
    """
    if classifier.training:
        raise ValueError("attention is read in evaluation mode, where nothing is dropped")
    backbone = token_backbone(classifier)
    layers: list[Any] = [getattr(block, "attn", None) for block in backbone.blocks]
    if not all(hasattr(layer, "attn_drop") and hasattr(layer, "fused_attn") for layer in layers):
        raise UsageError(
            f"{classifier.name} computes attention in a way of its own, which cannot be read",
            hint="Use a DeiT, such as deit_tiny_distilled_patch16_224",
        )
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], weights: Tensor) -> None:
        kept.append(weights.float().mean(dim=1))  # (B, H, M, M) -> (B, M, M)

    handles = [layer.attn_drop.register_forward_hook(keep) for layer in layers]
    try:
        with _plain(layers):
            backbone.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(kept)  # (L, B, M, M)


def rollout(layers: Tensor) -> Tensor:
    """Return how much each position of the last layer takes from each of the input, (B, M, M).

    Half of what a block hands on comes by its residual connection; rows sum to 1.

    Args:
        layers: (L, B, M, M), as `attention_by_layer` returns them.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020
    (arXiv 2005.00928), section 3, "Attention rollout".
    """
    identity = torch.eye(layers.shape[-1], dtype=layers.dtype, device=layers.device)
    flow = identity.expand(layers.shape[1:])  # (B, M, M)
    for weights in layers:
        flow = (0.5 * weights + 0.5 * identity) @ flow
    return flow


def token_maps(flow: Tensor, *, num_tokens: int, grid: tuple[int, int]) -> Tensor:
    """Return what each token takes from each patch, (B, T, h, w).

    Args:
        flow: (B, M, M), attention weights or their rollout.
        num_tokens: T, how many leading positions are tokens.
        grid: h and w.
    """
    return flow[:, :num_tokens, num_tokens:].unflatten(-1, grid)


def token_backbone(classifier: Classifier) -> Any:
    """Return the network inside, which must be a vision transformer with a class token.

    Raises:
        UsageError: It is not.
    """
    backbone: Any = classifier.backbone
    if getattr(backbone, "cls_token", None) is None or not hasattr(backbone, "blocks"):
        raise UsageError(
            f"{classifier.name} has no class token: only vision transformers have tokens to look "
            "at",
            hint="Use a DeiT, such as deit_tiny_distilled_patch16_224",
        )
    return backbone


@contextmanager
def _plain(layers: list[Any]) -> Iterator[None]:
    """Compute attention with plain matrix products for a while."""
    before = [layer.fused_attn for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        yield
    finally:
        for layer, fused in zip(layers, before, strict=True):
            layer.fused_attn = fused
