"""Own the two values that cross every layer: a batch of images and a model's answers."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Hold one micro-batch as the loader delivers it.

    Shapes: images (B, 3, H, W) uint8; labels, indices, repetitions (B,) int64.
    `indices` count within the split; (epoch, index, repetition) names the augmentation drawn.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    repetitions: Tensor
    epoch: int


class HeadLogits(NamedTuple):
    """Hold the logits (B, K) of the class head and, where there is one, the distillation head."""

    class_logits: Tensor
    distill_logits: Tensor | None
