"""Freeze parts of a network."""

import re

from torch import nn

from deit_transfer.errors import UsageError
from deit_transfer.models.classifier import Classifier, head_names, is_head_key

FREEZE_POLICIES = ("none", "head", "attention", "last-N")


def freeze(classifier: Classifier, policy: str) -> list[str]:
    """Freeze the backbone's parameters by a policy and return the names that stay trainable.

    The heads are always trained.

    Args:
        classifier: Its parameters' `requires_grad` is set, both ways.
        policy: "none" freezes nothing. "head" is the linear probe: only the heads are trained
            (the running statistics of a convnet's BatchNorm still follow the data).
            "attention" trains the attention layers and the position embeddings, as
            `--attn-only` of the paper's code (Touvron et al., "Three things everyone should
            know about Vision Transformers"), and here the distillation head as well, which
            scoring counts in. "last-N" trains the last N blocks and the final norm.

    Raises:
        UsageError: An unknown policy, more blocks than there are, or a policy that needs a
            vision transformer.
    """
    trainable = _trainable_pattern(classifier, policy)
    heads = head_names(classifier.backbone)
    names = []
    for name, parameter in classifier.backbone.named_parameters():
        parameter.requires_grad_(is_head_key(name, heads) or bool(trainable.match(name)))
        if parameter.requires_grad:
            names.append(name)
    return names


def _trainable_pattern(classifier: Classifier, policy: str) -> re.Pattern[str]:
    """Return what the names of trainable backbone parameters start with."""
    if policy == "none":
        return re.compile("")
    if policy == "head":
        return re.compile("(?!)")  # matches no name
    last = re.fullmatch(r"last-(\d+)", policy)
    if policy != "attention" and last is None:
        raise UsageError(
            f"unknown freeze policy {policy!r}; choose one of {', '.join(FREEZE_POLICIES)}",
            hint="For the last two blocks: last-2",
        )
    blocks = getattr(classifier.backbone, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or not hasattr(blocks[0], "attn"):
        raise UsageError(
            f"the freeze policy {policy!r} needs a vision transformer, unlike {classifier.name}",
            hint="Use 'none' or 'head'",
        )
    if last is None:
        return re.compile(r"pos_embed$|blocks\.\d+\.attn\.")
    count = int(last.group(1))
    if not 1 <= count <= len(blocks):
        raise UsageError(
            f"the freeze policy {policy!r} asks for {count} of {classifier.name}'s {len(blocks)} "
            f"blocks; N is in 1..{len(blocks)}"
        )
    numbers = "|".join(map(str, range(len(blocks) - count, len(blocks))))
    return re.compile(rf"norm\.|fc_norm\.|blocks\.(?:{numbers})\.")
