"""Transforms from decoded pixels to a network's input size, for training and evaluation.

A training view is a function of the image and one seed, nothing else: it never reads a global
generator, so it is the same in any worker, epoch or restart. Normalizing, erasing and mixing
happen later, on the device.

Legend: R the resolution; images are (H, W, 3) uint8 RGB.
"""

import math
import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from PIL import Image

from deit_transfer.data.pipeline import image_ops
from deit_transfer.data.pipeline.autoaugment import AutoAugment
from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.data.pipeline.randaugment import RandAugment, parse_policy
from deit_transfer.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from albumentations import HorizontalFlip, RandomResizedCrop

TrainTransform = Callable[[Pixels, int], Pixels]
EvalTransform = Callable[[Pixels], Pixels]

Policy = Literal["randaugment", "autoaugment", "three_augment", "none"]
Crop = Literal["resized", "simple"]
Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]
CropMode = Literal["center", "squash", "border"]
POLICIES = ("randaugment", "autoaugment", "three_augment", "none")
CROPS = ("resized", "simple")

# Aspect ratios of a random crop: timm/data/transforms_factory.py, transforms_imagenet_train.
_RATIO = (3 / 4, 4 / 3)
# DeiT's augment.py (DeiT III, 3-Augment): blur radius, solarize threshold, simple crop's border.
_BLUR_RADIUS = (0.1, 2.0)
_SOLARIZE_FROM = 128
_SIMPLE_CROP_PADDING = 4

# A guess: past this aspect ratio, evaluation resizes only the part that it keeps.
_THIN = 8

_MASK = (1 << 64) - 1

_RESAMPLING: dict[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def sample_seed(seed: int, epoch: int, index: int, repetition: int) -> int:
    """Mix four counts into the seed of one training view, in 0..2**64-1.

    Neighboring counts give unrelated seeds, on every machine and Python alike.

    Source: splitmix64's finalizer, https://prng.di.unimi.it/splitmix64.c
    """
    mixed = 0
    for count in (seed, epoch, index, repetition):
        mixed = (mixed + count + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
    return mixed


def train_transform(
    *,
    resolution: int,
    scale: tuple[float, float],
    hflip: float,
    policy: Policy,
    randaugment: str,
    color_jitter: float,
    mean: tuple[float, float, float],
    crop: Crop = "resized",
) -> TrainTransform:
    """Build the training view: crop and resize, flip, then the augmentation policy.

    Args:
        resolution: Side R of the result.
        scale: Range of the crop's share of the image's area, in (0, 1]; for crop "resized".
        hflip: Probability of a horizontal flip.
        policy: "randaugment", "autoaugment", "three_augment" (DeiT III: grayscale,
            solarize or blur, then color jitter) or "none".
        randaugment: Policy string in timm's notation; read for policy "randaugment" only.
        color_jitter: Range of brightness, contrast and saturation factors around 1; as in timm
            and DeiT it has no effect together with RandAugment.
        mean: The model's mean (0..1), the color that moved images uncover.
        crop: "resized" (a random area and aspect ratio) or "simple" (DeiT III: the shorter side
            is resized to R, R x R is cut out of the result with a reflected border).

    Returns:
        A function of (pixels (H, W, 3), seed) that gives (R, R, 3) uint8.

    Raises:
        UsageError: An unknown policy or crop, or a malformed RandAugment string.
    """
    for value, choices, what in ((policy, POLICIES, "policy"), (crop, CROPS, "crop")):
        if value not in choices:
            raise UsageError(
                f"unknown augmentation {what} {value!r}; choose from {', '.join(choices)}",
                hint=did_you_mean(value, choices),
            )
    return SeededTransform(
        resolution=resolution,
        scale=scale,
        hflip=hflip,
        color=_color_stage(
            policy=policy, randaugment_text=randaugment, color_jitter=color_jitter, mean=mean
        ),
        crop=crop,
    )


def eval_transform(
    *,
    resolution: int,
    crop_pct: float,
    interpolation: Interpolation = "bicubic",
    crop_mode: CropMode = "center",
    fill: tuple[int, int, int] = (0, 0, 0),
) -> EvalTransform:
    """Build the evaluation view: antialiased resize, then the center R x R.

    Args:
        resolution: Side R of the result.
        crop_pct: R as a share of the resized shorter side, in (0, 1].
        interpolation: "bicubic", or another that a network of timm's was measured with.
        crop_mode: "center" resizes the shorter side; "squash" both sides to one length, whatever
            the image's aspect ratio; "border" the longer side, with a border beside the shorter.
        fill: Color of the border, 0..255.

    Returns:
        A function of pixels (H, W, 3) that gives (R, R, 3) uint8, as timm's transform does.

    Source: timm/data/transforms_factory.py, transforms_imagenet_eval.
    """
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct must lie in (0, 1], not {crop_pct}")
    if interpolation not in _RESAMPLING:
        raise ValueError(f"interpolation must be of {', '.join(_RESAMPLING)}: {interpolation!r}")
    resampling, resized = _RESAMPLING[interpolation], math.floor(resolution / crop_pct)
    if crop_mode == "squash":
        return SquashTransform(resolution=resolution, side=resized, resampling=resampling)
    if crop_mode == "border":
        return BorderTransform(
            resolution=resolution, longer=resized, resampling=resampling, fill=fill
        )
    if crop_mode != "center":
        raise ValueError(f"crop_mode must be center, squash or border, not {crop_mode!r}")
    return CenterTransform(resolution=resolution, shorter=resized, resampling=resampling)


class CenterTransform:
    """Resizes the shorter side to `shorter` and crops the center R x R."""

    def __init__(
        self,
        *,
        resolution: int,
        shorter: int,
        resampling: Image.Resampling = Image.Resampling.BICUBIC,
    ) -> None:
        self.resolution = resolution
        self.shorter = shorter
        self.resampling = resampling

    def __call__(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        short = min(height, width)
        # torchvision's rounding: int() for the longer side, round() for the margins.
        resized = [int(self.shorter * side / short) for side in (width, height)]
        left, top = (round((side - self.resolution) / 2) for side in resized)
        kept = (left, top, left + self.resolution, top + self.resolution)
        view = Image.fromarray(image)
        if max(resized) <= _THIN * self.shorter:
            return np.asarray(view.resize(resized, self.resampling).crop(kept))
        # A 1 x 5000 image would become 256 x 1,280,000: compute only what is kept.
        x, y = width / resized[0], height / resized[1]
        box = (kept[0] * x, kept[1] * y, kept[2] * x, kept[3] * y)
        size = (self.resolution, self.resolution)
        return np.asarray(view.resize(size, self.resampling, box))  # (R, R, 3)


class SquashTransform:
    """Resizes to `side` x `side` whatever the aspect ratio, and crops the center R x R."""

    def __init__(self, *, resolution: int, side: int, resampling: Image.Resampling) -> None:
        self.resolution = resolution
        self.side = side
        self.resampling = resampling

    def __call__(self, image: Pixels) -> Pixels:
        margin = round((self.side - self.resolution) / 2)
        far = margin + self.resolution
        view = Image.fromarray(image).resize((self.side, self.side), self.resampling)
        return np.asarray(view.crop((margin, margin, far, far)))  # (R, R, 3)


class BorderTransform:
    """Resizes the longer side to `longer`, and crops or fills to the center R x R."""

    def __init__(
        self,
        *,
        resolution: int,
        longer: int,
        resampling: Image.Resampling,
        fill: tuple[int, int, int],
    ) -> None:
        self.resolution = resolution
        self.longer = longer
        self.resampling = resampling
        self.fill = fill

    def __call__(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        ratio = max(height, width) / self.longer
        resized = [max(round(side / ratio), 1) for side in (width, height)]
        view = Image.fromarray(image).resize(resized, self.resampling)
        canvas = Image.new("RGB", (self.resolution, self.resolution), self.fill)
        # timm's rounding: a border's smaller half comes first, a crop's margin is round()
        left, top = (
            (self.resolution - side) // 2
            if side < self.resolution
            else -round((side - self.resolution) / 2)
            for side in resized
        )
        canvas.paste(view, (left, top))
        return np.asarray(canvas)  # (R, R, 3)


class SeededTransform:
    """Augments an image as one seed says; two calls with one seed give the same pixels.

    albumentations draws the crop and the flip, one after the other from one stream: the view is
    the one that its `Compose` would give, 60 us sooner. Left to itself, Compose (2.0.8) keeps
    private generators that fork copies, so that every worker and epoch repeats the last; seeded
    by `set_random_seed`, it gives each transform the same stream, which ties the flip to the crop.
    """

    def __init__(
        self,
        *,
        resolution: int,
        scale: tuple[float, float],
        hflip: float,
        color: Callable[[Pixels, random.Random], Pixels] | None,
        crop: Crop,
    ) -> None:
        self.resolution = resolution
        self.scale = scale
        self.hflip = hflip
        self.color = color
        self.crop = crop
        self._draws: tuple[RandomResizedCrop, HorizontalFlip] | None = None

    def __call__(self, image: Pixels, seed: int) -> Pixels:
        """Return the view (R, R, 3) of `image` (H, W, 3) that `seed` names."""
        if self._draws is None:
            self._draws = self._make_draws()
        cropper, flip = self._draws
        stream = random.Random(seed)
        stream.random()  # Compose's own draw, whether to do anything, comes first
        cropper.py_random = flip.py_random = stream  # the only generator that either reads
        if self.crop == "simple":
            view = simple_random_crop(image, self.resolution, stream)
        else:
            drawn = cropper.get_params_dependent_on_data({"shape": image.shape}, {})
            left, top, right, bottom = drawn["crop_coords"]
            # As Pillow resizes; albumentations would do so without antialiasing.
            view = image_ops.resize(image[top:bottom, left:right], *cropper.size)
        if flip.should_apply():
            view = flip.apply(view)
        return view if self.color is None else self.color(view, stream)

    def _make_draws(self) -> "tuple[RandomResizedCrop, HorizontalFlip]":
        """Return what draws, made on first use as the import takes seconds."""
        # albumentations asks its package page for a newer version when imported.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        from albumentations import HorizontalFlip, RandomResizedCrop

        cv2.setNumThreads(0)  # forked workers would wait for threads that they do not have
        size = (self.resolution, self.resolution)
        return (
            RandomResizedCrop(size=size, scale=self.scale, ratio=_RATIO),
            HorizontalFlip(p=self.hflip),
        )

    def __getstate__(self) -> dict[str, Any]:
        # Where workers are spawned, not forked, each makes its own.
        return {**self.__dict__, "_draws": None}


def _color_stage(
    *, policy: Policy, randaugment_text: str, color_jitter: float, mean: tuple[float, float, float]
) -> Callable[[Pixels, random.Random], Pixels] | None:
    red, green, blue = (min(255, round(255 * level)) for level in mean)  # as timm rounds it
    if policy == "randaugment":
        return RandAugment(policy=parse_policy(randaugment_text), fill=(red, green, blue))
    if policy == "autoaugment":
        return AutoAugment(fill=(red, green, blue))
    if policy == "three_augment":
        return ThreeAugment(color_jitter=color_jitter)
    return ColorJitter(strength=color_jitter) if color_jitter > 0 else None


class ColorJitter:
    """Changes brightness, contrast and saturation in random order, as torchvision does.

    Args:
        strength: Each factor is drawn from 1 - strength .. 1 + strength, not below 0.
    """

    def __init__(self, *, strength: float) -> None:
        self.strength = strength

    def __call__(self, image: Pixels, stream: random.Random) -> Pixels:
        changes = [image_ops.brightness, image_ops.contrast, image_ops.color]
        stream.shuffle(changes)
        for change in changes:
            factor = stream.uniform(max(0.0, 1 - self.strength), 1 + self.strength)
            image = change(image, factor, (0, 0, 0))
        return image


class ThreeAugment:
    """Applies one of grayscale, solarize and Gaussian blur, then color jitter (DeiT III).

    Source: https://arxiv.org/abs/2204.07118, section 3.2; facebookresearch/deit augment.py.
    """

    def __init__(self, *, color_jitter: float) -> None:
        self.jitter = ColorJitter(strength=color_jitter) if color_jitter > 0 else None

    def __call__(self, image: Pixels, stream: random.Random) -> Pixels:
        choice = stream.randrange(3)
        if choice == 0:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        elif choice == 1:
            image = image_ops.solarize(image, _SOLARIZE_FROM, (0, 0, 0))
        else:
            radius = stream.uniform(*_BLUR_RADIUS)  # Pillow's radius is the standard deviation
            image = cv2.GaussianBlur(image, (0, 0), radius, borderType=cv2.BORDER_REPLICATE)
        return image if self.jitter is None else self.jitter(image, stream)


def simple_random_crop(image: Pixels, resolution: int, stream: random.Random) -> Pixels:
    """Resize the shorter side to R and cut R x R at random, with a reflected border around.

    Source: facebookresearch/deit augment.py, new_data_aug_generator with `--src`.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    resized = image_ops.resize(
        image, int(resolution * height / short), int(resolution * width / short)
    )
    pad = _SIMPLE_CROP_PADDING
    padded = cv2.copyMakeBorder(resized, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    top = stream.randint(0, padded.shape[0] - resolution)
    left = stream.randint(0, padded.shape[1] - resolution)
    return np.ascontiguousarray(padded[top : top + resolution, left : left + resolution])
