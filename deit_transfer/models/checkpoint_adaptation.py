"""Fit pretrained weights to a network, with an itemized report.

Between plain and distilled networks, resolutions and patch grids. Nothing is dropped in silence:
every tensor of the network, and every tensor of the start that finds no place, has one line.

Shapes: T token positions, an h x w grid of patches, D dimensions.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from timm.layers import resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from deit_transfer.errors import CheckpointError
from deit_transfer.models.classifier import Classifier, head_names, is_head_key
from deit_transfer.models.pos_embed import resize_grid, split_positions
from deit_transfer.models.pretrained import PretrainedWeights
from deit_transfer.models.variants import VARIANTS, Variant
from deit_transfer.models.weights_layouts import foreign_layout

Action = Literal["copied", "interpolated", "initialized", "dropped"]

POSITIONS = "pos_embed"
PATCHES = "patch_embed.proj.weight"
DISTILL_TOKEN = "dist_token"
DISTILL_HEAD = "head_dist"

# Tensors that older versions of timm stored and that every network computes for itself.
COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask", "num_batches_tracked")
# How many tensors a refusal lists.
LISTED = 8


@dataclass(frozen=True)
class LoadItem:
    """What happened to one tensor. `size` counts its scalars."""

    key: str
    action: Action
    size: int
    detail: str = ""


@dataclass(frozen=True)
class LoadReport:
    """What a network took from pretrained weights.

    `items` has every tensor of the network once, then the start's tensors that were dropped.
    `coverage` is the percentage of the backbone's parameters (heads apart) that were taken.
    `notes` say which of several weights in a file were taken.
    """

    origin: str
    items: tuple[LoadItem, ...]
    coverage: float
    notes: tuple[str, ...] = ()

    @property
    def percents(self) -> dict[Action, float]:
        """Return the share of each action, 0..100.

        Copied, interpolated and initialized are shares of the network's scalars and sum to 100;
        dropped is the dropped size against the network's.
        """
        sizes: Counter[Action] = Counter()
        for item in self.items:
            sizes[item.action] += item.size
        network = sum(sizes.values()) - sizes["dropped"]
        actions: tuple[Action, ...] = ("copied", "interpolated", "initialized", "dropped")
        return {action: 100.0 * sizes[action] / network for action in actions}

    @property
    def summary(self) -> list[str]:
        """Return a line for each action that happened, naming what is not simply copied."""
        lines = [f"start: {self.origin}"]
        for action, percent in self.percents.items():
            items = [item for item in self.items if item.action == action]
            if items:
                lines.append(f"{action}: {_share(percent)} ({_name_items(items)})")
        return lines + list(self.notes)

    @property
    def scoring_notes(self) -> list[str]:
        """Return what whoever scores the network should know: all but what was just copied."""
        unremarkable = ("start:", "copied:")
        return [line for line in self.summary if not line.startswith(unremarkable)]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "origin": self.origin,
            "coverage": self.coverage,
            "percents": self.percents,
            "items": [asdict(item) for item in self.items],
        }


def load_pretrained(
    classifier: Classifier,
    start: PretrainedWeights,
    *,
    min_coverage: float = 0.9,
    keep_head: bool = False,
    complete: bool = False,
) -> LoadReport:
    """Load start weights into a freshly built network and report on every tensor.

    Patch positions are interpolated to the network's grid; the tokens' own positions are never
    touched. Whatever the weights lack stays as `build_classifier` drew it: the heads; and
    from plain to distilled the distillation token and its position.

    The heads are drawn anew even when the start has the same number of classes, because they
    may be other classes; only `keep_head` says that they are the same.

    Args:
        classifier: As it comes from `build_classifier`.
        start: From `read_pretrained`; a start from nothing loads nothing.
        min_coverage: Smallest acceptable share of the backbone's parameters, in 0..1.
        keep_head: Take the start's heads too; its classes must be this network's. A
            distillation head that the start lacks is drawn.
        complete: Refuse weights that do not give every tensor of the network, as for a network
            that is scored and not trained.

    Raises:
        CheckpointError: The start covers too little of the network, its positions cannot be
            resized to the network's resolution, `keep_head` asks for a head that is not there,
            or `complete` for what would be initialized. The network is unchanged then.
    """
    backbone = classifier.backbone
    heads = head_names(backbone)
    source, resized, discarded = _as_timm_fits(start.state_dict, backbone)
    loaded: dict[str, Tensor] = {}
    items: list[LoadItem] = []
    for key, tensor in backbone.state_dict().items():
        given = source.pop(key, None)
        if is_head_key(key, heads):
            value, item = _fit_head(key, tensor, given, start=start, keep_head=keep_head)
        else:
            value, item = _fit(key, tensor, given, classifier=classifier, start=start)
            if key in resized and item.action == "copied":
                item = LoadItem(key, "interpolated", item.size, resized[key])
        loaded[key] = value
        items.append(item)
    items += [_dropped(key, value) for key, value in (source | discarded).items()]

    report = LoadReport(start.origin, tuple(items), _coverage(classifier, items), start.notes)
    if not start.is_none:
        _check_coverage(report, classifier, start, min_coverage=min_coverage)
        _check_positions(report, classifier, start)
        if keep_head:
            _check_heads(report, classifier, start)
        if complete:
            _check_complete(report, classifier, start)
        backbone.load_state_dict(loaded, strict=True)
    return report


def _as_timm_fits(
    state_dict: Mapping[str, Tensor], backbone: Any
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Tensor]]:
    """Let timm fit weights whose names or shapes are not the network's, where it knows how.

    Plain vision transformers are fitted here, as the paper does it.

    Returns:
        The tensors; by key, how timm resized it; and the tensors that timm left out.
    """
    own, heads = backbone.state_dict(), head_names(backbone)
    fits = all(
        is_head_key(key, heads) or (key in state_dict and state_dict[key].shape == tensor.shape)
        for key, tensor in own.items()
    )
    fit = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if fits or fit is None or isinstance(backbone, VisionTransformer):
        return dict(state_dict), {}, {}
    try:
        with warnings.catch_warnings(action="ignore"):  # of the torch calls in timm's resizing
            fitted: dict[str, Tensor] = dict(fit(dict(state_dict), backbone))
    except Exception:  # other weights than timm expects here: the report names what is missing
        return dict(state_dict), {}, {}
    resized = {
        key: f"{_shape(state_dict[key])} resized to {_shape(value)} by timm"
        for key, value in fitted.items()
        if key in state_dict and state_dict[key].shape != value.shape
    }
    renamed = {id(value) for value in fitted.values()}
    discarded = {
        key: value
        for key, value in state_dict.items()
        if key not in fitted and id(value) not in renamed
    }
    return fitted, resized, discarded


def _fit(
    key: str,
    tensor: Tensor,
    given: Tensor | None,
    *,
    classifier: Classifier,
    start: PretrainedWeights,
) -> tuple[Tensor, LoadItem]:
    """Return the value for one tensor of the backbone, and what was done to get it."""
    if given is None:
        return tensor, LoadItem(key, "initialized", tensor.numel(), _absent(start))
    is_transformer = isinstance(classifier.backbone, VisionTransformer)
    if key == POSITIONS and is_transformer and given.shape[-1] == tensor.shape[-1]:
        return _fit_positions(tensor, given, classifier=classifier, start=start)
    if given.shape == tensor.shape:
        return given, LoadItem(key, "copied", tensor.numel(), _dtype_detail(tensor, given))
    if key == PATCHES and is_transformer and given.shape[:2] == tensor.shape[:2]:
        new_size = [int(tensor.shape[2]), int(tensor.shape[3])]
        detail = f"patches of {_grid(given.shape[2:])} resampled to {_grid(new_size)}"
        resampled = resample_patch_embed(given.float(), new_size)
        return resampled, LoadItem(key, "interpolated", tensor.numel(), detail)
    detail = f"{_shape(given)} in the weights, {_shape(tensor)} here"
    return tensor, LoadItem(key, "initialized", tensor.numel(), detail)


def _fit_positions(
    tensor: Tensor, given: Tensor, *, classifier: Classifier, start: PretrainedWeights
) -> tuple[Tensor, LoadItem]:
    """Fit position embeddings (1, T + h * w, D) to the network's tokens and patch grid."""
    backbone: Any = classifier.backbone
    # networks of the DeiT-III kind give their tokens no position
    num_tokens = 0 if backbone.no_embed_class else backbone.num_prefix_tokens
    given_tokens = num_tokens
    if num_tokens and classifier.distilled != (DISTILL_TOKEN in start.state_dict):
        given_tokens += -1 if classifier.distilled else 1
    grid: tuple[int, int] = tuple(backbone.patch_embed.grid_size)
    try:
        tokens, patches = split_positions(given, num_tokens=given_tokens)
    except ValueError as error:
        raise CheckpointError(
            f"{POSITIONS} of {start.origin} cannot be fitted: {error}",
            hint="Only square images are supported; start from weights trained on squares",
        ) from error
    details = [_dtype_detail(tensor, given)]
    if given_tokens < num_tokens:
        # Drawn, not copied from the class token: trained on ImageNet, that position is so large
        # that a second token beside it disturbs the class token (linear top-1 on CIFAR-10 of
        # DeiT-Ti's class embedding: 66 alone, 65 beside a drawn position, 58 beside a copy; 500
        # images to fit, 300 to test).
        drawn = tensor[:, given_tokens:num_tokens]
        tokens = torch.cat([tokens.to(tensor.dtype), drawn], dim=1)  # (1, T, D)
        details.append("the distillation token's position initialized")
    elif given_tokens > num_tokens:
        tokens = tokens[:, :num_tokens]
        details.append("the distillation token's position dropped")
    action: Action = "copied"
    if patches.shape[1:3] != grid:
        action = "interpolated"
        details.append(f"patch grid {_grid(patches.shape[1:3])} to {_grid(grid)}, bicubic")
    resized = resize_grid(patches, new_grid=grid).flatten(1, 2)  # (1, h * w, D)
    value = torch.cat([tokens, resized], dim=1)
    detail = "; ".join(detail for detail in details if detail)
    return value, LoadItem(POSITIONS, action, tensor.numel(), detail)


def _fit_head(
    key: str, tensor: Tensor, given: Tensor | None, *, start: PretrainedWeights, keep_head: bool
) -> tuple[Tensor, LoadItem]:
    """Return the value for one tensor of a head: drawn anew unless asked otherwise."""
    if given is None:
        return tensor, LoadItem(key, "initialized", tensor.numel(), _absent(start))
    if keep_head and given.shape == tensor.shape:
        return given, LoadItem(key, "copied", tensor.numel(), _dtype_detail(tensor, given))
    if given.shape == tensor.shape:
        # the names of the classes are not known here; model.keep_head goes by them
        detail = (
            "new; model.keep_head keeps the one in the weights if its "
            f"{given.shape[0]} classes are the same"
        )
    else:
        detail = f"{given.shape[0]} classes in the weights, {tensor.shape[0]} here"
    return tensor, LoadItem(key, "initialized", tensor.numel(), detail)


def _absent(start: PretrainedWeights) -> str:
    """Describe the tensors that the weights lack, unless they lack all of them."""
    return "" if start.is_none else "not in the weights"


def _dropped(key: str, value: Tensor) -> LoadItem:
    """Describe why a tensor of the weights found no place."""
    is_distill = key == DISTILL_TOKEN or key.startswith(f"{DISTILL_HEAD}.")
    detail = "no distillation token in this network" if is_distill else "not in this network"
    return LoadItem(key, "dropped", value.numel(), detail)


def _coverage(classifier: Classifier, items: list[LoadItem]) -> float:
    """Return the percentage of the backbone's parameters that the start gave."""
    heads = head_names(classifier.backbone)
    parameters = {key for key, _ in classifier.backbone.named_parameters()}
    backbone = [i for i in items if i.key in parameters and not is_head_key(i.key, heads)]
    taken = sum(item.size for item in backbone if item.action in ("copied", "interpolated"))
    return 100.0 * taken / sum(item.size for item in backbone if item.action != "dropped")


def _check_coverage(
    report: LoadReport, classifier: Classifier, start: PretrainedWeights, *, min_coverage: float
) -> None:
    """Refuse a start that gives too little of the backbone, saying what it looks like."""
    if report.coverage >= 100.0 * min_coverage:
        return
    unfit = [item for item in report.items if item.action == "initialized" and item.detail]
    example = f"; for instance {unfit[0].key}: {unfit[0].detail}" if unfit else ""
    looks_like = guess_variant(start.state_dict)
    program = foreign_layout(start.state_dict)
    if program:
        example = f"; its names are {program}'s"
    raise CheckpointError(
        f"the start ({start.origin}) covers {report.coverage:.1f}% of the parameters of "
        f"{classifier.name}'s backbone; at least {100 * min_coverage:.0f}% is needed{example}",
        hint=f"The weights look like {looks_like}: --model {looks_like}"
        if looks_like
        else f"Give weights of {classifier.name}, with timm's names",
    )


def _check_heads(report: LoadReport, classifier: Classifier, start: PretrainedWeights) -> None:
    """Refuse to keep a class head that the start does not have for these classes."""
    class_head = head_names(classifier.backbone)[:1]
    lost = [i for i in report.items if is_head_key(i.key, class_head) and i.action == "initialized"]
    if lost:
        raise CheckpointError(
            f"the head of {start.origin} cannot be kept: {lost[0].key}: {lost[0].detail}",
            hint="Fine-tune with a new head instead, or take the model that the weights are of",
        )


def _check_positions(report: LoadReport, classifier: Classifier, start: PretrainedWeights) -> None:
    """Refuse positions of another resolution that nobody knows how to resize."""
    lost = [
        item
        for item in report.items
        if item.action == "initialized"
        and "pos" in item.key.rpartition(".")[2]
        and item.key in start.state_dict
    ]
    if lost:
        raise CheckpointError(
            f"the positions of {start.origin} cannot be resized for {classifier.name} at "
            f"{classifier.resolution} pixels: {lost[0].key}: {lost[0].detail}",
            hint="Use the resolution that the weights were trained at",
        )


def _check_complete(report: LoadReport, classifier: Classifier, start: PretrainedWeights) -> None:
    """Refuse weights that do not make up the whole network, tensor by tensor."""
    heads = head_names(classifier.backbone)
    own = {key.partition(".")[0] for key in classifier.backbone.state_dict()}
    lines = []
    for item in report.items:
        inside = item.key.partition(".")[0] in own and not item.key.endswith(COMPUTED)
        drawn = item.action == "initialized" or "position initialized" in item.detail
        if drawn and not item.key.endswith(COMPUTED):
            lines.append(f"{item.key}: {item.detail}")
        elif item.action == "dropped" and inside and not is_head_key(item.key, heads):
            lines.append(f"{item.key}: in the weights, not in this network")
    if not lines:
        return
    more = f"\n  - and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    listed = "".join(f"\n  - {line}" for line in lines[:LISTED])
    looks_like = guess_variant(start.state_dict)
    raise CheckpointError(
        f"{start.origin} does not fit {classifier.name}, and a network with random parts is not "
        f"scored:{listed}{more}",
        hint=f"The weights look like {looks_like}: give {looks_like}=WEIGHTS"
        if looks_like not in (None, classifier.name)
        else f"Give the weights of a whole {classifier.name}; deit-transfer finetune --from takes "
        "weights without heads",
    )


def fitting_model(weights: PretrainedWeights) -> str:
    """Return the network that weights are of: as their folder says, or by their shapes.

    Raises:
        CheckpointError: The folder says nothing, and the shapes are of no DeiT.
    """
    name = weights.model_name or guess_variant(weights.state_dict)
    if name is None:
        raise CheckpointError(
            f"{weights.origin} does not say which network it is of, and its shapes are of no DeiT",
            hint="Name it: MODEL=WEIGHTS where a network is scored, --model MODEL where it is "
            "trained",
        )
    return name


def guess_variant(state_dict: Mapping[str, Tensor]) -> str | None:
    """Return the variant with the width, depth and patch size of these tensors.

    Of several, such as one for each resolution, the one with as many positions.
    """
    patches = state_dict.get(PATCHES)
    if patches is None or patches.ndim != 4:
        return None
    blocks = {key.split(".")[1] for key in state_dict if key.startswith("blocks.")}
    found = (patches.shape[0], len(blocks), patches.shape[2], DISTILL_TOKEN in state_dict)
    alike = [
        variant
        for variant in VARIANTS.values()
        if (variant.embed_dim, variant.depth, variant.patch_size, variant.distilled) == found
    ]
    positions = state_dict.get(POSITIONS)
    count = positions.shape[1] if positions is not None and positions.ndim == 3 else None
    best = [variant for variant in alike if _num_positions(variant) == count]
    return next((variant.name for variant in best + alike), None)


def _num_positions(variant: Variant) -> int:
    """Return the number of positions of a DeiT: its tokens' and its patches'."""
    return 1 + variant.distilled + (variant.resolution // (variant.patch_size or 1)) ** 2


def _name_items(items: list[LoadItem]) -> str:
    """Name a few tensors with their details, or only count them when they were just copied."""
    detailed = [item for item in items if item.detail]
    named = detailed if items[0].action != "copied" else [i for i in detailed if i.key == POSITIONS]
    if not named:
        return f"{len(items)} tensors"
    shown = [f"{item.key}: {item.detail}" for item in named[:3]]
    more = len(items) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _share(percent: float) -> str:
    return f"{percent:.1f}%" if percent >= 0.1 or percent == 0 else "under 0.1%"


def _dtype_detail(tensor: Tensor, given: Tensor) -> str:
    if given.dtype == tensor.dtype:
        return ""
    return f"converted from {str(given.dtype).removeprefix('torch.')}"


def _grid(size: Any) -> str:
    return "x".join(str(int(side)) for side in size)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
