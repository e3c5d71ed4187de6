"""The values that cross every layer: Batch and HeadLogits."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One micro-batch as the loader delivers it.

    Shapes: images (B, 3, H, W) uint8; labels, indices, repetitions (B,) int64.
    `indices` count within the split; (epoch, index, repetition) names the augmentation drawn.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    repetitions: Tensor
    epoch: int


class HeadLogits(NamedTuple):
    """The logits (B, K) of the class head and, where there is one, the distillation head."""

    class_logits: Tensor
    distill_logits: Tensor | None
