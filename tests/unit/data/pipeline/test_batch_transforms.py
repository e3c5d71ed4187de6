"""Normalizing, erasing, mixing and smoothing on the device, against plainer writings and timm."""

import random

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import functional as torchvision

from deit_transfer.batch import Batch
from deit_transfer.data.pipeline.batch_transforms import (
    make_batch_transforms,
    normalize,
    smooth_targets,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
K = 5


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def batch_of(size, side=16):
    generator = torch.Generator().manual_seed(size)
    return Batch(
        images=torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator),
        labels=torch.arange(size) % K,
        indices=torch.arange(size),
        repetitions=torch.zeros(size, dtype=torch.int64),
        epoch=0,
    )


def build(**changes):
    arguments = {
        "mean": MEAN,
        "std": STD,
        "num_classes": K,
        "mixup": 0.0,
        "cutmix": 0.0,
        "mixup_prob": 1.0,
        "switch_prob": 0.5,
        "smoothing": 0.0,
        "erasing_prob": 0.0,
        "device": "cpu",
    }
    return make_batch_transforms(**(arguments | changes))


def test_normalize_equals_torchvisions():
    images = batch_of(3).images
    expected = torch.stack(
        [
            torchvision.normalize(torchvision.to_tensor(image.permute(1, 2, 0).numpy()), MEAN, STD)
            for image in images
        ]
    )
    torch.testing.assert_close(normalize(images, MEAN, STD), expected, rtol=1e-5, atol=1e-5)
    assert images.dtype == torch.uint8


def test_normalize_works_in_and_out_of_inference_mode():
    images = batch_of(2).images
    with torch.inference_mode():
        first = normalize(images, (0.1, 0.2, 0.3), STD).clone()
    later = normalize(images, (0.1, 0.2, 0.3), STD)
    weight = torch.ones(3, requires_grad=True)
    (later * weight.view(1, 3, 1, 1)).sum().backward()  # needs `later` for the gradient
    torch.testing.assert_close(weight.grad, first.sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_targets_without_mixing_are_smoothed_one_hot(smoothing):
    images, targets = build(smoothing=smoothing)(batch_of(7))
    expected = np.full((7, K), smoothing / K)
    expected[np.arange(7), np.arange(7) % K] += 1 - smoothing
    np.testing.assert_allclose(targets.numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(images, normalize(batch_of(7).images, MEAN, STD))
    torch.testing.assert_close(
        targets, smooth_targets(torch.arange(7) % K, num_classes=K, smoothing=smoothing)
    )


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_an_even_batch_is_mixed_as_by_timm(mixup, cutmix):
    prepare = build(mixup=mixup, cutmix=cutmix, smoothing=0.1)
    timms = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.1, num_classes=K)
    for seed in range(6):
        batch = batch_of(8)
        seed_all(seed)
        images, targets = prepare(batch)
        seed_all(seed)
        expected = timms(normalize(batch.images, MEAN, STD), batch.labels)
        torch.testing.assert_close(images, expected[0], rtol=0, atol=0)
        torch.testing.assert_close(targets, expected[1], rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_an_odd_batch_is_mixed_with_its_middle_image_left_alone(size, mixup, cutmix):
    prepare = build(mixup=mixup, cutmix=cutmix, smoothing=0.1)
    batch, middle, changed = batch_of(size), size // 2, False
    plain = normalize(batch.images, MEAN, STD)
    own = smooth_targets(batch.labels, num_classes=K, smoothing=0.1)
    for seed in range(6):
        seed_all(seed)
        images, targets = prepare(batch)
        assert images.shape == plain.shape
        assert targets.shape == (size, K)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(size))
        torch.testing.assert_close(images[middle], plain[middle], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(targets[middle], own[middle])
        # The others are what an even batch of them would become, by the same draw.
        if size > 1:
            rest = [i for i in range(size) if i != middle]
            seed_all(seed)
            even = prepare(Batch(*(part[rest] for part in batch[:4]), epoch=0))
            torch.testing.assert_close(images[rest], even[0])
            torch.testing.assert_close(targets[rest], even[1])
            changed |= not torch.equal(images[rest], plain[rest])
    assert changed == (size > 1)


def test_mixing_happens_with_its_probability():
    batch = batch_of(4)
    plain = normalize(batch.images, MEAN, STD)
    prepare = build(mixup=0.8, mixup_prob=0.3)
    seed_all(0)
    mixed = sum(not torch.equal(prepare(batch)[0], plain) for _ in range(400))
    assert mixed / 400 == pytest.approx(0.3, abs=0.06)
    never = build(mixup=0.8, mixup_prob=0.0)
    assert torch.equal(never(batch)[0], plain)


def test_erasing_equals_timms_after_normalizing():
    batch = batch_of(16)
    seed_all(3)
    images, _ = build(erasing_prob=0.5)(batch)
    seed_all(3)
    theirs = RandomErasing(0.5, mode="pixel", max_count=1, device="cpu")
    torch.testing.assert_close(images, theirs(normalize(batch.images, MEAN, STD)), rtol=0, atol=0)


def test_erasing_puts_standard_normal_noise_into_a_quarter_of_the_images():
    batch = batch_of(2000, side=12)
    plain = normalize(batch.images, MEAN, STD)
    seed_all(0)
    images, targets = build(erasing_prob=0.25)(batch)
    changed = images != plain
    assert changed.flatten(1).any(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert images[changed].mean().item() == pytest.approx(0.0, abs=0.05)
    assert images[changed].std().item() == pytest.approx(1.0, abs=0.05)
    assert targets.argmax(dim=1).equal(batch.labels)


def test_everything_on_repeats_from_a_seed_and_leaves_the_batch_alone():
    prepare = build(mixup=0.8, cutmix=1.0, smoothing=0.1, erasing_prob=0.25)
    batch = batch_of(9)
    bytes_before = batch.images.clone()
    results = []
    for seed in (1, 1, 2):
        seed_all(seed)
        results.append(prepare(batch))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])
    assert torch.equal(batch.images, bytes_before)
    assert results[0][0].is_contiguous()


@pytest.mark.parametrize(
    "changes",
    [{"smoothing": 1.0}, {"mixup": -1.0}, {"mixup_prob": 1.5}, {"erasing_prob": -0.1}],
)
def test_values_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        build(**changes)
