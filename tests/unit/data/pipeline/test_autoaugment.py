"""AutoAugment: timm's sub-policies, each operation as strong as timm's own."""

import random

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from deit_transfer.data.pipeline.autoaugment import TABLE, AutoAugment

GRAY = (124, 116, 104)
PHOTO = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8).repeat(8, 0)
PHOTO = np.ascontiguousarray(PHOTO.repeat(8, 1))


def test_every_sub_policy_of_timm_is_there_and_has_an_operation() -> None:
    ours = AutoAugment(fill=GRAY).sub_policies
    theirs = auto_augment.auto_augment_policy("original", {})
    assert len(ours) == len(theirs) == 25
    assert {name for steps in ours for name, _, _ in steps} <= set(TABLE)


@pytest.mark.parametrize("level", [0, 3, 5, 9, 10])
def test_posterize_keeps_as_many_bits_as_timm(level: int) -> None:
    step = auto_augment.AugmentOp("PosterizeOriginal", prob=1.0, magnitude=level, hparams={})
    expected = np.asarray(step(Image.fromarray(PHOTO)))
    operation = TABLE["PosterizeOriginal"]
    assert operation.strength is not None
    bits = operation.strength(level, random.Random(0))
    np.testing.assert_array_equal(operation.function(PHOTO, bits, GRAY), expected)


def test_the_stream_alone_decides() -> None:
    augment = AutoAugment(fill=GRAY)
    first = [augment(PHOTO, random.Random(seed)) for seed in range(12)]
    again = [augment(PHOTO, random.Random(seed)) for seed in range(12)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({a.tobytes() for a in first}) > 6
