"""The table of DeiT variants, and the lookup of any timm network by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deit_transfer.errors import UsageError, did_you_mean

# https://github.com/facebookresearch/deit, README_deit.md: published weights and their top-1
DEIT_SOURCE = "https://github.com/facebookresearch/deit"
MICRO_SOURCE = "this program: small enough to train on a CPU in a minute; no published weights"

DEFAULT_RESOLUTION = 224


@dataclass(frozen=True)
class Variant:
    """A network before it is built.

    `parameters` counts the whole network with a head of `num_classes` classes. Fields that only
    the DeiT variants know are None for other timm networks.

    `timm_name` and `model_args` rebuild the network in timm itself:
    `timm.create_model(timm_name, num_classes=K, img_size=R, **model_args)`.
    """

    name: str
    timm_name: str
    resolution: int
    source: str
    distilled: bool = False
    fixed_resolution: bool = True
    patch_size: int | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    parameters: int | None = None
    num_classes: int = 1000
    imagenet_top1: float | None = None
    has_published_weights: bool = True
    model_args: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_deit(self) -> bool:
        """Whether this is one of the DeiT networks of the table."""
        return self.embed_dim is not None


def _deit(
    name: str,
    *,
    width: int,
    parameters: int,
    top1: float,
    distilled: bool = False,
    resolution: int = 224,
) -> Variant:
    """Return a published DeiT: 12 layers, patch 16, 64 dimensions a head (paper, Table 1)."""
    return Variant(
        name=name,
        timm_name=f"{name}.fb_in1k",
        resolution=resolution,
        source=DEIT_SOURCE,
        distilled=distilled,
        patch_size=16,
        embed_dim=width,
        depth=12,
        num_heads=width // 64,
        parameters=parameters,
        imagenet_top1=top1,
    )


def _micro(name: str, *, parameters: int, distilled: bool) -> Variant:
    """Return the demonstration network: DeiT's blocks at a size that a CPU trains in a minute."""
    timm_name = "deit_tiny_distilled_patch16_224" if distilled else "deit_tiny_patch16_224"
    size = {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3}
    return Variant(
        name=name,
        timm_name=timm_name,
        resolution=32,
        source=MICRO_SOURCE,
        distilled=distilled,
        patch_size=size["patch_size"],
        embed_dim=size["embed_dim"],
        depth=size["depth"],
        num_heads=size["num_heads"],
        parameters=parameters,
        num_classes=10,
        has_published_weights=False,
        model_args=size,
    )


# The paper's default teacher, RegNetY-16GF trained by its authors; timm's bare name
# `regnety_160` means other weights, pretrained on ImageNet-12k (82.9: paper, Table 2).
_PAPER_TEACHER = Variant(
    name="regnety_160",
    timm_name="regnety_160.deit_in1k",
    resolution=224,
    source=DEIT_SOURCE,
    fixed_resolution=False,
    parameters=83_590_140,
    imagenet_top1=82.9,
)

# Accuracy: evaluation of the published weights, README_deit.md of the source above.
VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        _deit("deit_tiny_patch16_224", width=192, parameters=5_717_416, top1=72.2),
        _deit("deit_small_patch16_224", width=384, parameters=22_050_664, top1=79.9),
        _deit("deit_base_patch16_224", width=768, parameters=86_567_656, top1=81.8),
        _deit(
            "deit_tiny_distilled_patch16_224",
            width=192,
            parameters=5_910_800,
            top1=74.5,
            distilled=True,
        ),
        _deit(
            "deit_small_distilled_patch16_224",
            width=384,
            parameters=22_436_432,
            top1=81.2,
            distilled=True,
        ),
        _deit(
            "deit_base_distilled_patch16_224",
            width=768,
            parameters=87_338_192,
            top1=83.4,
            distilled=True,
        ),
        _deit("deit_base_patch16_384", width=768, parameters=86_859_496, top1=82.9, resolution=384),
        _deit(
            "deit_base_distilled_patch16_384",
            width=768,
            parameters=87_630_032,
            top1=85.2,
            distilled=True,
            resolution=384,
        ),
        _micro("deit_micro", parameters=459_562, distilled=False),
        _micro("deit_micro_distilled", parameters=460_724, distilled=True),
        _PAPER_TEACHER,
    )
}


def find_variant(name: str) -> Variant:
    """Return the network of this name: a variant of the table, else any network timm knows.

    Args:
        name: Such as `deit_tiny_patch16_224`, `resnet18` or `resnet18.a1_in1k`.

    Raises:
        UsageError: Neither the table nor timm has the name.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    for variant in VARIANTS.values():
        if name == variant.timm_name:  # a variant of the table, spelled with its weight tag
            return variant
    import timm

    try:
        known = timm.is_model(name)
        config = timm.get_pretrained_cfg(name, allow_unregistered=True) if known else None
    except RuntimeError:  # a known network with an unknown weight tag after the dot
        raise _unknown_model(
            name, timm.list_models(f"{name.split('.')[0]}*", pretrained=True)
        ) from None
    if not known:
        raise _unknown_model(name, timm.list_models())
    if config is None:  # a network without published weights
        return Variant(name, name, DEFAULT_RESOLUTION, "timm", has_published_weights=False)
    return Variant(
        name=name,
        timm_name=name,
        resolution=int(config.input_size[-1]),
        source=config.origin_url or "timm",
        fixed_resolution=bool(config.fixed_input_size),
        has_published_weights=bool(config.hf_hub_id or config.url),
    )


def check_resolution(variant: Variant, resolution: int) -> None:
    """Refuse a resolution that the variant's patches do not divide.

    Raises:
        UsageError: Naming the nearest resolutions that can be used.
    """
    check_patch_grid(name=variant.name, resolution=resolution, patch_size=variant.patch_size or 1)


def check_patch_grid(*, name: str, resolution: int, patch_size: int) -> None:
    """Refuse a resolution that is not a positive multiple of the patch size."""
    if resolution > 0 and resolution % patch_size == 0:
        return
    below = max(resolution // patch_size, 1) * patch_size
    choices = str(below) if below >= resolution else f"{below} and {below + patch_size}"
    raise UsageError(
        f"resolution {resolution} does not fit {name}: it must be a positive multiple of the patch "
        f"size {patch_size}; the nearest are {choices}",
        hint=f"Use --resolution {below}",
    )


def _unknown_model(name: str, timm_names: list[str]) -> UsageError:
    """Return the error for a name that nothing matches, with the closest ones."""
    # a DeiT is looked for in the table: among timm's thousand names something is always close
    choices = VARIANTS if name.startswith("deit") else dict.fromkeys([*VARIANTS, *timm_names])
    suggestion = did_you_mean(name, choices)
    return UsageError(
        f"unknown model {name!r}; choose one of {', '.join(VARIANTS)}, or any name timm knows",
        hint=suggestion or "Call timm.list_models() for timm's names",
    )


def distilled_form(name: str) -> str:
    """Return the name of a DeiT's distilled twin: deit_tiny_distilled_patch16_224."""
    return name.replace("_patch", "_distilled_patch") if "_patch" in name else f"{name}_distilled"
