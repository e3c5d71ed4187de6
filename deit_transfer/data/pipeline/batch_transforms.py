"""Batch transforms on the device: normalize, random erasing, Mixup, CutMix, smoothing.

Everything runs on the batch's device. Randomness comes from the global Python, NumPy and torch
generators alone, which the engine seeds for each micro-batch; nothing here seeds or saves them.

Legend: B batch, K classes, H and W the image's sides.
"""

import functools

import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn import functional

from deit_transfer.batch import Batch


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale bytes to the network's input, (images / 255 - mean) / std.

    Args:
        images: (B, 3, H, W) uint8, on any device.
        mean: Three means in 0..1.
        std: Three standard deviations, above 0.

    Returns:
        (B, 3, H, W) float32 on the same device.
    """
    offset, scale = _statistics(tuple(mean), tuple(std), images.device)  # (1, 3, 1, 1)
    return images.to(torch.float32).sub_(offset).div_(scale)


@functools.lru_cache(maxsize=8)
def _statistics(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Kept, as copying them to a GPU anew would make every batch wait for it.
    offset, scale = (torch.tensor(values, device=device) * 255 for values in (mean, std))
    return offset.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)


def smooth_targets(labels: Tensor, *, num_classes: int, smoothing: float) -> Tensor:
    """Return one-hot targets (B, K) with `smoothing` of each row spread over all classes."""
    hot = functional.one_hot(labels, num_classes).to(torch.float32)  # (B, K)
    return hot * (1 - smoothing) + smoothing / num_classes


def make_batch_transforms(
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    num_classes: int,
    mixup: float,
    cutmix: float,
    mixup_prob: float,
    switch_prob: float,
    smoothing: float,
    erasing_prob: float,
    device: torch.device | str,
) -> "BatchTransforms":
    """Build the training batch transforms.

    Args:
        mean: The model's three means in 0..1.
        std: The model's three standard deviations.
        num_classes: K.
        mixup: Alpha of Mixup's Beta distribution; 0 turns it off.
        cutmix: Alpha of CutMix's Beta distribution; 0 turns it off.
        mixup_prob: Probability that a batch is mixed at all.
        switch_prob: Probability of CutMix where both are on.
        smoothing: Label smoothing in [0, 1).
        erasing_prob: Probability that a rectangle of an image becomes noise.
        device: Where the network is.

    Raises:
        ValueError: A probability outside 0..1, smoothing outside [0, 1) or a negative alpha.
    """
    for name, value in (
        ("mixup_prob", mixup_prob),
        ("switch_prob", switch_prob),
        ("erasing_prob", erasing_prob),
    ):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in 0..1, not {value}")
    if not 0 <= smoothing < 1 or mixup < 0 or cutmix < 0:
        raise ValueError(f"smoothing {smoothing}, mixup {mixup} or cutmix {cutmix} out of range")
    device = torch.device(device)
    mixing = None
    if (mixup > 0 or cutmix > 0) and mixup_prob > 0:
        mixing = Mixup(
            mixup_alpha=mixup,
            cutmix_alpha=cutmix,
            prob=mixup_prob,
            switch_prob=switch_prob,
            mode="batch",
            label_smoothing=smoothing,
            num_classes=num_classes,
        )
    erasing = None
    if erasing_prob > 0:
        # One rectangle of per-pixel noise, as DeiT: main.py --reprob --remode --recount.
        erasing = RandomErasing(erasing_prob, mode="pixel", max_count=1, device=device)
    return BatchTransforms(
        mean=mean,
        std=std,
        num_classes=num_classes,
        smoothing=smoothing,
        mixing=mixing,
        erasing=erasing,
        device=device,
    )


class BatchTransforms:
    """Turns a batch into (images (B, 3, H, W) float32, targets (B, K) float32).

    In timm's order: normalize, erase (so that the noise has the images' spread), mix. Mixing
    pairs image i with image B-1-i, by one draw for the whole batch. timm refuses an odd B; here
    the middle image is paired with itself, which leaves it and its target as they are, and the
    others are mixed as in an even batch. A batch of one is therefore never mixed.
    """

    def __init__(
        self,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        num_classes: int,
        smoothing: float,
        mixing: Mixup | None,
        erasing: RandomErasing | None,
        device: torch.device,
    ) -> None:
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.num_classes = num_classes
        self.smoothing = smoothing
        self.mixing = mixing
        self.erasing = erasing
        self.device = device

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prepare one micro-batch; the batch itself is not changed."""
        labels = batch.labels.to(self.device, non_blocking=True)  # (B,)
        images = batch.images.to(self.device, non_blocking=True)
        images = normalize(images, self.mean, self.std)  # (B, 3, H, W)
        if self.erasing is not None:
            images = self.erasing(images)
        if self.mixing is not None:
            return self._mix(images, labels)
        targets = smooth_targets(labels, num_classes=self.num_classes, smoothing=self.smoothing)
        return images, targets

    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert self.mixing is not None
        if len(images) % 2 == 0:
            return self.mixing(images, labels)
        middle = len(images) // 2
        doubled = [*range(middle + 1), *range(middle, len(images))]
        images, targets = self.mixing(images[doubled], labels[doubled])
        single = [i for i in range(len(doubled)) if i != middle]
        return images[single], targets[single]
