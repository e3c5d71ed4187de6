"""Each operation and the draw of RandAugment, against timm's on Pillow images."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from deit_transfer.data.pipeline import image_ops
from deit_transfer.data.pipeline.randaugment import (
    INCREASING,
    ORIGINAL,
    RandAugment,
    RandAugmentPolicy,
    parse_policy,
)
from deit_transfer.errors import UsageError

FILL = (124, 116, 104)
MAGNITUDES = (0.0, 1.3, 4.7, 9.0, 10.0)


def noise(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def photo(height, width):
    """Smooth as an enlarged photo: neighboring pixels differ by a few levels."""
    small = Image.fromarray(noise(height // 12, width // 12))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def with_timm(name, image, strength):
    arguments = () if strength is None else (strength,)
    result = auto_augment.NAME_TO_OP[name](
        Image.fromarray(image), *arguments, fillcolor=FILL, resample=Image.Resampling.BICUBIC
    )
    return np.asarray(result).astype(int)


def differences(name, operation, image, magnitude, seed):
    """Return |ours - timm's| for one operation, with the strength drawn on our side."""
    strength = operation.strength and operation.strength(magnitude, random.Random(seed))
    ours = operation.function(image, strength or 0.0, FILL)
    assert ours.dtype == np.uint8
    assert ours.shape == image.shape
    return np.abs(ours.astype(int) - with_timm(name, image, strength))


ALL = {**ORIGINAL, **INCREASING}
EXACT = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "Contrast", "Brightness")


@pytest.mark.parametrize("name", sorted(set(ALL) - {"Rotate"}))
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_operation_equals_timms_to_a_level(name, magnitude):
    allowed = 0 if name.startswith(EXACT) else 1
    for image in (noise(60, 48), photo(48, 84), noise(32, 32)):
        for seed in (0, 1):  # both signs
            assert differences(name, ALL[name], image, magnitude, seed).max() <= allowed


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_rotation_equals_timms_but_for_the_cubic_kernel(magnitude):
    # OpenCV's cubic kernel has a = -0.75 and positions in 32nds of a pixel, Pillow's has a = -1
    # and cuts fractions off (half a level on average): on a photo-like image that is a few
    # levels at the steepest places, on noise it shows in full and only the mean says something.
    for seed in (0, 1):
        on_photo = differences("Rotate", ALL["Rotate"], photo(120, 96), magnitude, seed)
        assert on_photo.max() <= 6
        assert on_photo.mean() < 0.8
        assert differences("Rotate", ALL["Rotate"], noise(60, 48), magnitude, seed).mean() < 4.5


@pytest.mark.parametrize("name", sorted(ALL))
def test_operations_leave_their_input_alone(name):
    image = 20 + noise(40, 40) // 8 * 7  # neither black nor white: AutoContrast has work as well
    before = image.copy()
    operation = ALL[name]
    strength = operation.strength and operation.strength(9.0, random.Random(0))
    result = operation.function(image, strength or 0.0, FILL)
    assert (image == before).all()
    assert (result != before).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_operations_take_tiny_images(shape):
    for name, operation in ALL.items():
        allowed = 30 if name == "Rotate" else 1  # as on noise of any size
        assert differences(name, operation, noise(*shape), 9.0, 0).max() <= allowed


@pytest.mark.parametrize("value", [0, 7, 255])
def test_flat_images_stay_as_timm_leaves_them(value):
    flat = np.full((16, 16, 3), value, np.uint8)
    for name in ("AutoContrast", "Equalize", "ContrastIncreasing", "ColorIncreasing"):
        assert differences(name, ALL[name], flat, 9.0, 0).max() <= 1


def test_a_shift_beyond_the_image_shows_the_fill_only():
    shifted = image_ops.translate_x(noise(8, 8), 1.5, FILL)
    assert (shifted == FILL).all()


@pytest.mark.parametrize("name", sorted(name for name in ALL if ALL[name].strength))
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 9.0, 10.0])
def test_strength_equals_timms(name, magnitude, monkeypatch):
    hparams = {"translate_const": 100, "img_mean": FILL}
    for draw in (0.2, 0.8):
        monkeypatch.setattr(random, "random", lambda draw=draw: draw)  # timm's stream
        stream = random.Random()
        monkeypatch.setattr(stream, "random", lambda draw=draw: draw)
        (expected,) = auto_augment.LEVEL_TO_ARG[name](magnitude, hparams) or (None,)
        assert ALL[name].strength(magnitude, stream) == pytest.approx(expected)


def timm_policy(text):
    return auto_augment.rand_augment_transform(text, {"img_mean": FILL})


@pytest.mark.parametrize("increasing", [0, 1])
def test_operation_set_equals_timms(increasing):
    theirs = {op.name for op in timm_policy(f"rand-m9-mstd0.5-inc{increasing}").ops}
    assert set(INCREASING if increasing else ORIGINAL) == theirs
    assert len(theirs) == 15


@pytest.mark.parametrize(
    "text",
    ["rand-m9-mstd0.5-inc1", "rand", "rand-n3-m7-p0.7", "rand-mstd101-m5", "rand-m14-mmax20-inc0"],
)
def test_parser_reads_what_timm_reads(text):
    policy, theirs = parse_policy(text), timm_policy(text)
    first = theirs.ops[0]
    assert policy.num_operations == theirs.num_layers
    assert policy.magnitude == first.magnitude
    assert policy.probability == first.prob
    assert policy.magnitude_std == first.magnitude_std
    assert policy.magnitude_max == (first.magnitude_max or 10)
    assert set(INCREASING if policy.increasing else ORIGINAL) == {op.name for op in theirs.ops}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "augmix-m3",
        "rand-x3",
        "rand-m9-mstd",
        "rand-m9-inc1-m8",
        "rand-m9.5",
        "rand-inc2",
        "rand-p1.5",
        "rand-m-9",
        "rand-t3a",
        "rand--m9",
    ],
)
def test_parser_refuses_a_malformed_string(text):
    with pytest.raises(UsageError, match="cannot be read") as error:
        parse_policy(text)
    assert repr(text) in error.value.message
    assert "rand-m9-mstd0.5-inc1" in error.value.hint


def test_draws_follow_timms_distribution():
    """Count operations per image, their choice and their magnitudes over many draws."""
    policy = parse_policy("rand-m9-mstd0.5-inc1")
    augment = RandAugment(policy=policy, fill=FILL)
    applied: list[tuple[str, float]] = []
    augment.apply = lambda name, image, magnitude, stream: (
        applied.append((name, magnitude)) or image
    )
    per_image = Counter()
    for seed in range(6000):
        before = len(applied)
        augment(noise(1, 1), random.Random(seed))
        per_image[len(applied) - before] += 1
    assert per_image[0] / 6000 == pytest.approx(0.25, abs=0.02)
    assert per_image[1] / 6000 == pytest.approx(0.50, abs=0.02)
    assert per_image[2] / 6000 == pytest.approx(0.25, abs=0.02)
    names = Counter(name for name, _ in applied)
    assert set(names) == set(INCREASING)
    assert max(names.values()) / len(applied) < 1 / 15 + 0.015
    assert min(names.values()) / len(applied) > 1 / 15 - 0.015
    # N(9, 0.5) cut at 10: P(10) = P(z > 2) = 0.0228.
    magnitudes = np.array([magnitude for _, magnitude in applied])
    assert np.median(magnitudes) == pytest.approx(9.0, abs=0.03)
    assert magnitudes.std() == pytest.approx(0.49, abs=0.02)
    assert magnitudes.max() == 10.0
    assert (magnitudes == 10.0).mean() == pytest.approx(0.0228, abs=0.008)


@pytest.mark.parametrize("spread", [0.0, float("inf")])
def test_magnitude_without_noise_and_uniform(spread):
    augment = RandAugment(policy=RandAugmentPolicy(magnitude=6, magnitude_std=spread), fill=FILL)
    stream = random.Random(0)
    drawn = np.array([augment.draw_magnitude(stream) for _ in range(2000)])
    if spread == 0.0:
        assert (drawn == 6).all()
    else:
        assert drawn.mean() == pytest.approx(3.0, abs=0.15)
        assert 0 <= drawn.min() < 0.1 < 5.9 < drawn.max() <= 6


def test_a_stream_repeats_and_another_differs():
    augment = RandAugment(policy=parse_policy("rand-n4-p1-inc1"), fill=FILL)
    image = photo(48, 48)
    assert (augment(image, random.Random(3)) == augment(image, random.Random(3))).all()
    assert (augment(image, random.Random(3)) != augment(image, random.Random(4))).any()
