"""Training and evaluation views, against timm's, and what one seed decides."""

import pickle
import random

import albumentations
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from timm.data import create_transform
from torchvision.transforms import ColorJitter as TorchColorJitter
from torchvision.transforms import functional as torch_functional

from deit_transfer.data.pipeline import image_ops, transforms
from deit_transfer.data.pipeline.randaugment import RandAugment, parse_policy
from deit_transfer.data.pipeline.transforms import (
    ColorJitter,
    ThreeAugment,
    eval_transform,
    sample_seed,
    simple_random_crop,
    train_transform,
)
from deit_transfer.errors import UsageError

MEAN = (0.485, 0.456, 0.406)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def photo(height, width):
    small = Image.fromarray(noise(max(2, height // 12), max(2, width // 12)))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def build(**changes):
    arguments = {
        "resolution": 32,
        "scale": (0.08, 1.0),
        "hflip": 0.5,
        "policy": "randaugment",
        "randaugment": "rand-m9-mstd0.5-inc1",
        "color_jitter": 0.3,
        "mean": MEAN,
    }
    return train_transform(**(arguments | changes))


# --- seeds ----------------------------------------------------------------------------------


def test_sample_seed_separates_all_its_counts():
    counts = [(s, e, i, r) for s in range(4) for e in range(6) for i in range(40) for r in range(3)]
    assert len({sample_seed(*each) for each in counts}) == len(counts)
    assert sample_seed(0, 1, 2, 3) == 0x7632F01967560332  # a resumed run must meet the same views


def test_sample_seed_mixes_bits_well():
    flips = [
        bin(sample_seed(0, epoch, index, 0) ^ sample_seed(0, epoch, index + 1, 0)).count("1")
        for epoch in range(20)
        for index in range(20)
    ]
    assert np.mean(flips) == pytest.approx(32, abs=1)  # half of 64 bits


def test_one_seed_gives_one_view_and_another_seed_another():
    view, image = build(), photo(60, 80)
    assert view(image, 5).shape == (32, 32, 3)
    assert view(image, 5).dtype == np.uint8
    assert (view(image, 5) == build()(image, 5)).all()
    assert len({view(image, seed).tobytes() for seed in range(50)}) == 50


def test_views_ignore_and_spare_the_global_generators():
    view, image = build(), photo(40, 40)
    view(image, 0)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    first = view(image, 7)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    assert (view(image, 7) == first).all()


def test_flip_and_crop_are_drawn_independently():
    """With albumentations' own seeding the flip follows from the first draw of the crop."""
    view = build(policy="none", color_jitter=0.0, resolution=8)
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0] = np.arange(64) * 4  # tells flips and widths apart
    spans, flips = [], []
    for seed in range(400):
        row = view(ramp, sample_seed(0, 0, seed, 0))[0, :, 0].astype(int)
        spans.append(abs(row[-1] - row[0]))
        flips.append(row[-1] < row[0])
    assert np.mean(flips) == pytest.approx(0.5, abs=0.08)
    assert abs(np.corrcoef(spans, flips)[0, 1]) < 0.15


@pytest.mark.parametrize("hflip", [0.0, 0.5, 1.0])
def test_a_view_is_the_one_that_albumentations_own_compose_gives(hflip):
    """Compose, given fresh generators at each call, is what ours does without."""

    class Crop(albumentations.RandomResizedCrop):
        def apply(self, img, crop_coords, **_):
            left, top, right, bottom = crop_coords
            return image_ops.resize(img[top:bottom, left:right], *self.size)

    class Policy(albumentations.ImageOnlyTransform):
        def apply(self, img, **_):
            augment = RandAugment(policy=parse_policy("rand-m9-mstd0.5-inc1"), fill=(124, 116, 104))
            return augment(img, self.py_random)

    compose = albumentations.Compose(
        [
            Crop(size=(32, 32), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
            albumentations.HorizontalFlip(p=hflip),
            Policy(p=1.0),
        ]
    )
    view = build(hflip=hflip)
    for image in (photo(60, 48), photo(33, 90), noise(1, 40), noise(3, 2)):
        for seed in range(60):
            compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
            assert (view(image, seed) == compose(image=image)["image"]).all()


def test_a_view_survives_pickling_for_spawned_workers():
    image = photo(40, 50)
    for view in (build(), build(policy="three_augment", crop="simple")):
        expected = view(image, 3)
        assert (pickle.loads(pickle.dumps(view))(image, 3) == expected).all()


# --- crop, resize, flip ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "side"), [(32, 32, 224), (25, 28, 64), (300, 320, 96), (150, 90, 112)]
)
def test_resize_equals_pillows_antialiased_bicubic(height, width, side):
    for image in (noise(height, width), photo(height, width)):
        image.flags.writeable = False
        expected = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        difference = np.abs(image_ops.resize(image, side, side) - np.asarray(expected, int))
        assert difference.max() <= 2  # both round between their two passes
        assert difference.mean() < 0.05


def test_crops_follow_timms_distribution(monkeypatch):
    """Compare area shares and aspect ratios of many crops with timm's own draws."""
    from timm.data.transforms import RandomResizedCropAndInterpolation

    sizes = []

    def note(image, height, width):
        sizes.append(image.shape[:2])
        return np.zeros((height, width, 3), np.uint8)

    monkeypatch.setattr(image_ops, "resize", note)
    view = build(policy="none", color_jitter=0.0)
    image = noise(90, 120)
    for seed in range(2000):
        view(image, sample_seed(0, 0, seed, 0))
    random.seed(0)
    pillow = Image.fromarray(image)
    theirs = [
        RandomResizedCropAndInterpolation.get_params(pillow, (0.08, 1.0), (3 / 4, 4 / 3))[2:]
        for _ in range(2000)
    ]
    ours_hw, theirs_hw = np.array(sizes, float), np.array(theirs, float)
    for measure in (lambda hw: hw.prod(1) / 10800, lambda hw: np.log(hw[:, 1] / hw[:, 0])):
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            ours_at, theirs_at = (np.quantile(measure(hw), share) for hw in (ours_hw, theirs_hw))
            assert ours_at == pytest.approx(theirs_at, abs=0.05)


@pytest.mark.parametrize(("probability", "flipped"), [(0.0, 0), (1.0, 20)])
def test_hflip_probability_is_obeyed(probability, flipped):
    view = build(policy="none", color_jitter=0.0, hflip=probability)
    ramp = np.zeros((32, 32, 3), np.uint8)
    ramp[:] = (np.arange(32) * 8)[:, None]
    views = [view(ramp, seed)[0, :, 0].astype(int) for seed in range(20)]
    assert sum(row[0] > row[-1] for row in views) == flipped


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
@pytest.mark.parametrize("crop", ["resized", "simple"])
def test_views_take_tiny_images(shape, crop):
    view = build(crop=crop, resolution=16)
    for seed in range(10):
        assert view(noise(*shape), seed).shape == (16, 16, 3)


def test_simple_crop_is_a_window_of_the_padded_resized_image():
    image = photo(40, 60)
    resized = np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.BICUBIC))
    padded = np.pad(resized, ((4, 4), (4, 4), (0, 0)), mode="reflect").astype(int)
    places = set()
    for seed in range(300):
        window = simple_random_crop(image, 32, random.Random(seed))
        found = [
            (top, left)
            for top in range(9)
            for left in range(25)
            if np.abs(padded[top : top + 32, left : left + 32] - window).max() <= 2
        ]
        assert found
        places.add(found[0])
    assert {top for top, _ in places} == set(range(9))
    assert len({left for _, left in places}) > 20


# --- policies -------------------------------------------------------------------------------


def test_randaugment_uncovers_the_mean_color():
    view = build(randaugment="rand-m10-n3-p1-inc1", resolution=48)
    black = np.zeros((48, 48, 3), np.uint8)
    colors = {tuple(pixel) for seed in range(40) for pixel in view(black, seed).reshape(-1, 3)}
    assert (124, 116, 104) in colors


def test_color_jitter_equals_torchvisions_given_its_draws():
    image = photo(40, 40)
    stream = random.Random(5)
    ours = ColorJitter(strength=0.4)(image, random.Random(5))
    order = ["brightness", "contrast", "saturation"]
    stream.shuffle(order)
    expected = Image.fromarray(image)
    for change in order:
        factor = stream.uniform(0.6, 1.4)
        expected = getattr(torch_functional, f"adjust_{change}")(expected, factor)
    assert np.abs(ours - np.asarray(expected, int)).max() <= 2
    assert TorchColorJitter(0.4).brightness == (0.6, 1.4)


def test_three_augment_applies_one_of_three_equally_often():
    image = photo(48, 48)
    augment = ThreeAugment(color_jitter=0.0)
    counts = {"gray": 0, "solarize": 0, "blur": 0}
    for seed in range(600):
        view = augment(image, random.Random(seed))
        if (view[..., 0] == view[..., 1]).all():
            counts["gray"] += 1
        elif (view == np.where(image < 128, image, 255 - image)).all():
            counts["solarize"] += 1
        else:
            counts["blur"] += 1
    assert min(counts.values()) > 160


def test_three_augments_gray_and_blur_equal_pillows(monkeypatch):
    image = photo(64, 64)
    gray = np.asarray(Image.fromarray(image).convert("L").convert("RGB"), int)
    stream = random.Random(0)
    monkeypatch.setattr(stream, "randrange", lambda _: 0)
    assert np.abs(ThreeAugment(color_jitter=0.0)(image, stream) - gray).max() <= 1
    monkeypatch.setattr(stream, "randrange", lambda _: 2)
    for radius in (0.1, 0.7, 1.3, 2.0):
        monkeypatch.setattr(stream, "uniform", lambda *_, radius=radius: radius)
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
        # Pillow approximates the Gaussian by three box blurs.
        difference = np.abs(
            ThreeAugment(color_jitter=0.0)(image, stream) - np.asarray(blurred, int)
        )
        assert difference.max() <= 4


def test_three_augment_draws_the_radius_in_deits_range(monkeypatch):
    radii = []

    def note(image, _size, radius, **_):
        radii.append(radius)
        return image

    monkeypatch.setattr(transforms.cv2, "GaussianBlur", note)
    augment = ThreeAugment(color_jitter=0.0)
    for seed in range(900):
        augment(noise(4, 4), random.Random(seed))
    assert min(radii) == pytest.approx(0.1, abs=0.05)
    assert max(radii) == pytest.approx(2.0, abs=0.05)


def test_color_jitter_has_an_effect_without_randaugment_only():
    image = photo(32, 32)
    for policy, expected in (("randaugment", True), ("none", False), ("three_augment", False)):
        plain, jittered = (build(policy=policy, color_jitter=s)(image, 1) for s in (0.0, 0.4))
        assert (plain == jittered).all() == expected


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"policy": "randaugmet"}, "randaugmet.*randaugment, autoaugment, three_augment, none"),
        ({"crop": "center"}, "center.*resized, simple"),
        ({"randaugment": "rand-q3"}, "rand-q3"),
    ],
)
def test_unknown_choices_are_refused_with_the_known_ones(changes, match):
    with pytest.raises(UsageError, match=match):
        build(**changes)


# --- evaluation -----------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [32, 224])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(32, 32), (375, 500), (301, 200), (7, 13), (1, 1)])
def test_eval_view_equals_timms(resolution, crop_pct, shape):
    image = noise(*shape)
    theirs = create_transform(
        resolution, interpolation="bicubic", crop_pct=crop_pct, use_prefetcher=True
    )
    expected = theirs(Image.fromarray(image)).permute(1, 2, 0).numpy()
    ours = eval_transform(resolution=resolution, crop_pct=crop_pct)(image)
    assert ours.shape == (resolution, resolution, 3)
    assert (ours == expected).all()


@pytest.mark.parametrize("shape", [(20, 200), (300, 30), (3, 100)])
def test_eval_view_of_a_thin_image_equals_timms_to_rounding(shape):
    image = photo(*shape)
    theirs = create_transform(64, interpolation="bicubic", crop_pct=0.9, use_prefetcher=True)
    expected = theirs(Image.fromarray(image)).permute(1, 2, 0).numpy()
    ours = eval_transform(resolution=64, crop_pct=0.9)(image)
    assert np.abs(ours - expected.astype(int)).max() <= 1


def test_eval_view_of_a_very_thin_image_takes_little_memory():
    """timm would make this 64 x 64,000,000 pixels first, 12 GB."""
    view = eval_transform(resolution=64, crop_pct=1.0)(noise(1, 1_000_000))
    assert view.shape == (64, 64, 3)


@pytest.mark.parametrize("crop_pct", [0.0, 1.2, -1.0])
def test_eval_view_refuses_an_impossible_crop(crop_pct):
    with pytest.raises(ValueError, match="crop_pct"):
        eval_transform(resolution=32, crop_pct=crop_pct)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("shape", [(97, 80), (50, 113), (64, 64)])
def test_eval_view_in_the_other_modes_equals_timms(shape, crop_pct, crop_mode, interpolation):
    image = photo(*shape)
    theirs = create_transform(
        64,
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=MEAN,
        use_prefetcher=True,
    )
    expected = theirs(Image.fromarray(image)).permute(1, 2, 0).numpy()
    ours = eval_transform(
        resolution=64,
        crop_pct=crop_pct,
        interpolation=interpolation,
        crop_mode=crop_mode,
        fill=tuple(round(255 * value) for value in MEAN),
    )(image)
    assert (ours == expected).all()


@pytest.mark.parametrize("wrong", [{"interpolation": "cubic"}, {"crop_mode": "corner"}])
def test_eval_view_refuses_an_unknown_mode(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        eval_transform(resolution=32, crop_pct=1.0, **wrong)
