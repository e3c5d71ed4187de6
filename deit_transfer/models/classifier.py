"""The network that is trained: a timm backbone that returns `HeadLogits`.

Shapes: B images, K classes, T tokens (class, distillation), N patches, D dimensions, L blocks.
"""

from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from deit_transfer.batch import HeadLogits
from deit_transfer.errors import UsageError
from deit_transfer.models.variants import (
    Variant,
    check_patch_grid,
    check_resolution,
    find_variant,
)

Attention = Literal["fused", "plain"]


class ParameterCounts(NamedTuple):
    """How many scalars a network has, and how many of them are trained."""

    total: int
    trainable: int
    backbone: int
    heads: int


class Classifier(nn.Module):
    """Maps images to the logits of every head, in training and in evaluation alike.

    timm's distilled network averages its heads unless it trains; here both heads' logits always
    come back, so that each head and their fusion can be scored. A network without a distillation
    token answers `distill_logits=None`.

    Args:
        backbone: A timm network with its head; its parameters keep timm's names.
        name: The name `find_variant` knows it by.
        num_classes: K.
        resolution: Height and width of the images, in pixels.
        mean: Per channel, subtracted from pixels in 0..1 before `images` reach `forward`.
        std: Per channel, the divisor that goes with `mean`.
        two_class_tokens: The paper's control: the second token also learns the true label.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        num_classes: int,
        resolution: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        two_class_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.num_classes = num_classes
        self.resolution = resolution
        self.mean = mean
        self.std = std
        self.two_class_tokens = two_class_tokens
        self.distilled = isinstance(backbone, VisionTransformerDistilled)

    def forward(self, images: Tensor) -> HeadLogits:
        """Return the logits (B, K) of each head for normalized images (B, 3, H, W)."""
        if not self.distilled:
            return HeadLogits(self.backbone(images), None)
        backbone: Any = self.backbone
        tokens = backbone.head_drop(self.forward_tokens(images))  # (B, 2, D)
        return HeadLogits(
            backbone.head(tokens[:, 0]), backbone.head_dist(tokens[:, 1])
        )  # (B, K) each

    def forward_tokens(self, images: Tensor) -> Tensor:
        """Return the final, normalized token embeddings (B, T, D), class token first.

        Raises:
            UsageError: The network has no tokens.
        """
        backbone = self._vision_transformer()
        return backbone.forward_features(images)[:, : backbone.num_prefix_tokens]

    def forward_layers(self, images: Tensor) -> Tensor:
        """Return the token embeddings (L + 1, B, T, D) at the input and after each block."""
        backbone = self._vision_transformer()
        layers: list[Tensor] = []

        def keep_input(_block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            layers.append(inputs[0][:, : backbone.num_prefix_tokens])

        def keep_output(_block: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            layers.append(output[:, : backbone.num_prefix_tokens])

        handles = [backbone.blocks[0].register_forward_pre_hook(keep_input)]
        handles += [block.register_forward_hook(keep_output) for block in backbone.blocks]
        try:
            backbone.forward_features(images)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(layers)

    def _vision_transformer(self) -> Any:
        if not isinstance(self.backbone, VisionTransformer):
            raise UsageError(
                f"{self.name} has no class token: only vision transformers have tokens",
                hint="Use a DeiT, such as deit_tiny_distilled_patch16_224",
            )
        return self.backbone


def build_classifier(
    *,
    name: str,
    num_classes: int,
    resolution: int | None = None,
    drop_path: float = 0.0,
    patch_drop: float = 0.0,
    drop: float = 0.0,
    dynamic_resolution: bool = False,
    two_class_tokens: bool = False,
) -> Classifier:
    """Build a network with freshly drawn parameters, from torch's global generator.

    Args:
        name: A name that `find_variant` knows.
        num_classes: K, 1 or more.
        resolution: Pixels a side; None takes the network's own.
        drop_path: Stochastic depth of the last block, in 0..1; it grows linearly with depth.
        patch_drop: Share of the patches that each training image leaves out at random, in 0..1:
            a step costs as much less (Liu et al. 2022, arXiv 2208.07220). Tokens are never left
            out. Needs a vision transformer.
        drop: Dropout, in 0..1. In a DeiT it acts where the paper's code has it: on the
            positions and on the outputs of attention and MLP.
        dynamic_resolution: Accept other resolutions in `forward` (progressive resolution).
            timm then resamples the position embeddings on the fly (antialiased bicubic); at
            `resolution` the logits are exactly those of the plain network.
        two_class_tokens: Recorded for the objective; needs a distilled network.

    Raises:
        UsageError: Unknown name, a resolution that the patches do not divide, or an option that
            this network does not have.
    """
    variant = find_variant(name)
    resolution = variant.resolution if resolution is None else resolution
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not {num_classes}")
    check_resolution(variant, resolution)
    backbone = _build_backbone(
        variant,
        num_classes=num_classes,
        resolution=resolution,
        drop_path=drop_path,
        patch_drop=patch_drop,
        drop=drop,
        dynamic_resolution=dynamic_resolution,
    )
    if two_class_tokens and not isinstance(backbone, VisionTransformerDistilled):
        raise UsageError(
            f"{name} has one token; two class tokens need a distilled network",
            hint="Use a name with 'distilled', such as deit_tiny_distilled_patch16_224",
        )
    config: dict[str, Any] = backbone.pretrained_cfg
    return Classifier(
        backbone,
        name=name,
        num_classes=num_classes,
        resolution=resolution,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        two_class_tokens=two_class_tokens,
    )


def head_names(backbone: nn.Module) -> tuple[str, ...]:
    """Return the module names of the classification heads, such as ("head", "head_dist")."""
    config: Any = getattr(backbone, "pretrained_cfg", {})
    heads = config.get("classifier") or "head"
    return (heads,) if isinstance(heads, str) else tuple(heads)


def find_head_names(name: str) -> tuple[str, ...]:
    """Return the module names of the classification heads of a network that is not built yet."""
    config = timm.get_pretrained_cfg(find_variant(name).timm_name)
    heads: Any = (config.classifier if config is not None else None) or "head"
    return (heads,) if isinstance(heads, str) else tuple(heads)


def is_head_key(key: str, heads: tuple[str, ...]) -> bool:
    """Return whether a parameter's name lies inside one of the heads."""
    return any(key.startswith(f"{head}.") for head in heads)


def describe_parameters(classifier: Classifier) -> ParameterCounts:
    """Count the parameters: all, trainable, and split into backbone and heads."""
    heads = head_names(classifier.backbone)
    total = trainable = in_heads = 0
    for key, parameter in classifier.backbone.named_parameters():
        total += parameter.numel()
        trainable += parameter.numel() if parameter.requires_grad else 0
        in_heads += parameter.numel() if is_head_key(key, heads) else 0
    return ParameterCounts(total, trainable, total - in_heads, in_heads)


def set_attention(classifier: nn.Module, attention: Attention) -> None:
    """Compute attention with torch's fused kernel or with plain matrix products.

    Both give the same logits up to rounding; networks without attention are left alone.
    """
    if attention not in ("fused", "plain"):
        raise ValueError(f"attention must be 'fused' or 'plain', not {attention!r}")
    layer: Any
    for layer in classifier.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = attention == "fused"


def _build_backbone(
    variant: Variant,
    *,
    num_classes: int,
    resolution: int,
    drop_path: float,
    patch_drop: float,
    drop: float,
    dynamic_resolution: bool,
) -> Any:
    """Build the timm network of a variant; translate timm's refusals for the user."""
    options: dict[str, Any] = {"num_classes": num_classes, **variant.model_args}
    if variant.fixed_resolution:
        options["img_size"] = resolution
        if dynamic_resolution:
            options["dynamic_img_size"] = True
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    if patch_drop > 0:
        options["patch_drop_rate"] = patch_drop
    if drop > 0 and variant.is_deit:
        # timm 0.3.2's drop_rate, which the paper's code was written for, acted on these two
        options |= {"pos_drop_rate": drop, "proj_drop_rate": drop}
    elif drop > 0:
        options["drop_rate"] = drop
    overlay = None
    if not variant.has_published_weights and variant.is_deit:
        overlay = {"url": "", "hf_hub_id": None, "input_size": (3, resolution, resolution)}
    try:
        backbone = timm.create_model(variant.timm_name, pretrained_cfg_overlay=overlay, **options)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        asked = ", ".join(f"{key}={value}" for key, value in options.items())
        raise UsageError(f"{variant.name} cannot be built with {asked}: {error}") from error
    if isinstance(backbone, VisionTransformer):
        check_patch_grid(
            name=variant.name,
            resolution=resolution,
            patch_size=backbone.patch_embed.patch_size[0],
        )
    if patch_drop > 0:
        # timm 1.0 makes it before it counts the distillation token, which could then be left out
        backbone.patch_drop.num_prefix_tokens = backbone.num_prefix_tokens
    if variant.is_deit:
        # The paper draws every token from a truncated normal; timm now draws the class token
        # with std 1e-6, which is not what DeiT was trained from.
        nn.init.trunc_normal_(backbone.cls_token, std=0.02)
    return backbone
