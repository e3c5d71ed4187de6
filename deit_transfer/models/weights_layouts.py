"""Translate the tensor names of other programs into timm's.

Wrappers (DataParallel, torch.compile, Lightning modules) put a prefix before every name; Hugging
Face transformers has names of its own for the same vision transformer.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from deit_transfer.errors import CheckpointError

# The one name that every vision transformer of timm has at the top.
_PATCHES = "patch_embed.proj.weight"
_HEAD = re.compile(r"(?:^|\.)((?:head|head_dist)\.(?:weight|bias))$")

# A counter that torch's AveragedModel keeps beside the network.
_COUNTER = "n_averaged"

# Top names of timm's networks that hold a whole network's blocks: no prefix of a wrapper.
_OWN_TOPS = frozenset({"blocks", "stages", "layers", "features", "transformer"})

_HF_PATCHES = "embeddings.patch_embeddings.projection.weight"
_HF_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
_HF_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": _PATCHES,
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
    "cls_classifier.weight": "head.weight",
    "cls_classifier.bias": "head.bias",
    "distillation_classifier.weight": "head_dist.weight",
    "distillation_classifier.bias": "head_dist.bias",
}
_HF_IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_HF_QKV = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))

# What a file's names look like, to say whose they are where they cannot be read.
_FOREIGN = (
    (re.compile(r"(^|\.)layers\.0\.ln1\."), "mmpretrain"),
    (re.compile(r"(^|\.)encoder\.layers\.encoder_layer_0\."), "torchvision's vision transformer"),
    (re.compile(r"(^|\.)resblocks\.0\."), "OpenAI's or OpenCLIP's CLIP"),
)


def to_timm_names(state_dict: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Return the tensors under timm's names, without a wrapper's prefix.

    Args:
        state_dict: Tensors as a file names them.
        source: The file, for messages.

    Raises:
        CheckpointError: The file holds several networks.
    """
    if _hf_prefixes(state_dict):
        return _from_transformers(state_dict, source=source)
    if _PATCHES in state_dict:
        return dict(state_dict)
    prefixes = _prefixes_before(_PATCHES, state_dict)
    if prefixes:
        return _unwrap(state_dict, _only(prefixes, source))
    return _strip_common(state_dict)


def foreign_layout(keys: Iterable[str]) -> str:
    """Name the program whose tensor names these are, or return an empty string."""
    names = list(keys)
    return next(
        (program for mark, program in _FOREIGN if any(mark.search(name) for name in names)), ""
    )


def _prefixes_before(ending: str, keys: Iterable[str]) -> list[str]:
    """Return what stands before a name that several wrapped networks may have."""
    found = {key.removesuffix(ending) for key in keys if key.endswith(f".{ending}")}
    return sorted(found)


def _only(prefixes: list[str], source: str) -> str:
    """Return the single prefix, or refuse to choose between several networks."""
    if len(prefixes) == 1:
        return prefixes[0]
    listed = ", ".join(f"{prefix}*" for prefix in prefixes)
    raise CheckpointError(
        f"{source} holds {len(prefixes)} networks: {listed}",
        hint="Save the one you mean by itself, in Python: torch.save({key.removeprefix("
        f"'{prefixes[0]}'): value for key, value in state_dict.items() if "
        f"key.startswith('{prefixes[0]}')}}, 'weights.pth')",
    )


def _unwrap(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Strip the prefix of the backbone; a head beside it moves to its place."""
    plain = {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }
    for key, value in state_dict.items():
        if key.startswith(prefix):
            continue
        head = _HEAD.search(key)
        plain.setdefault(head.group(1) if head else key, value)
    return plain


def _strip_common(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip every first component that all names share."""
    plain = dict(state_dict)
    while True:
        depths = [key.count(".") for key in plain if key != _COUNTER]
        tops = {key.partition(".")[0] for key in plain if key != _COUNTER}
        # one module's own weight and bias are no wrapped network
        wrapped = min(depths, default=0) >= 1 and max(depths) >= 2
        if len(tops) != 1 or not wrapped or tops & _OWN_TOPS:
            return plain
        (top,) = tops
        plain = {key.removeprefix(f"{top}."): value for key, value in plain.items()}


def _hf_prefixes(state_dict: Mapping[str, Tensor]) -> list[str]:
    bare = [""] if _HF_PATCHES in state_dict else []
    return bare + _prefixes_before(_HF_PATCHES, state_dict)


def _from_transformers(state_dict: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Translate the names of transformers' ViT and DeiT; what has no counterpart keeps its name."""
    prefix = _only(_hf_prefixes(state_dict), source)
    outer = prefix.removesuffix("vit.").removesuffix("deit.")  # a wrapper's, before the head too
    plain: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state_dict.items():
        inner = key.removeprefix(prefix).removeprefix(outer)
        block = _HF_BLOCK.fullmatch(inner)
        if block is None:
            plain[_HF_TOP.get(inner, key)] = value
            continue
        number, module, kind = block.groups()
        if module in _HF_QKV:
            parts.setdefault(f"blocks.{number}.attn.qkv.{kind}", {})[module] = value
        elif module in _HF_IN_BLOCK:
            plain[f"blocks.{number}.{_HF_IN_BLOCK[module]}.{kind}"] = value
        else:
            plain[key] = value
    for key, given in parts.items():
        if len(given) == len(_HF_QKV):  # one of the three is missing: so is their whole
            plain[key] = torch.cat([given[part] for part in _HF_QKV])
    return plain
