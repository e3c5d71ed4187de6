"""AutoAugment's ImageNet policy: timm's table of sub-policies over the operations here."""

import random

from timm.data.auto_augment import auto_augment_policy

from deit_transfer.data.pipeline import image_ops
from deit_transfer.data.pipeline.image_ops import Color, Pixels
from deit_transfer.data.pipeline.randaugment import FULL_MAGNITUDE, ORIGINAL, Operation

# AutoAugment counts bits from 4 to 8; timm/data/auto_augment.py, _posterize_original_level_to_arg
_POSTERIZE = Operation(image_ops.posterize, lambda m, _: int(m / FULL_MAGNITUDE * 4) + 4)
TABLE = {**ORIGINAL, "PosterizeOriginal": _POSTERIZE}


class AutoAugment:
    """Applies one of 25 sub-policies of two operations each.

    Args:
        fill: Color shown outside a moved image.

    Source: Cubuk et al. 2019, arXiv 1805.09501, Table 9; read from timm, "original".
    """

    def __init__(self, *, fill: Color) -> None:
        self.fill = fill
        self.sub_policies = [
            [(step.name, step.prob, float(step.magnitude)) for step in sub_policy]
            for sub_policy in auto_augment_policy("original", {})
        ]

    def __call__(self, image: Pixels, stream: random.Random) -> Pixels:
        """Return `image` (H, W, 3) augmented by draws from `stream`; the input is not changed."""
        for name, probability, magnitude in stream.choice(self.sub_policies):
            if stream.random() < probability:
                operation = TABLE[name]
                strength = operation.strength(magnitude, stream) if operation.strength else 0.0
                image = operation.function(image, strength, self.fill)
        return image
