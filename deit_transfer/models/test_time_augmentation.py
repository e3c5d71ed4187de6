"""Test-time augmentation (flip, five crops), and evaluation at another resolution.

Shapes: B images, R the network's resolution, S the side of the images given, K classes, V views.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from deit_transfer.batch import HeadLogits
from deit_transfer.errors import CheckpointError
from deit_transfer.models.checkpoint_adaptation import load_pretrained
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pretrained import PretrainedWeights

Views = Literal["one", "flip", "five", "ten"]
NUM_VIEWS: dict[Views, int] = {"one": 1, "flip": 2, "five": 5, "ten": 10}
View = Callable[[Tensor], Tensor]


class AveragedViews(nn.Module):
    """Averages the probabilities of several augmented copies, each head by itself.

    The logits are the logarithms of these means, so that their softmax is the mean again.

    Args:
        classifier: The network, of resolution R.
        views: `flip`, the image and its mirror image, of images (B, 3, R, R); `five`, the center
            and the four corners of images (B, 3, S, S) with S above R; `ten`, both.
    """

    def __init__(self, classifier: Classifier, *, views: Views) -> None:
        super().__init__()
        self.classifier = classifier
        self.views = views

    def forward(self, images: Tensor) -> HeadLogits:
        """Return the logits (B, K) of each head, as log-probabilities."""
        seen = [self.classifier(view) for view in self._cut(images)]
        distill = [heads.distill_logits for heads in seen if heads.distill_logits is not None]
        return HeadLogits(
            mean_log_probabilities([heads.class_logits for heads in seen]),
            mean_log_probabilities(distill) if distill else None,
        )

    def _cut(self, images: Tensor) -> list[Tensor]:
        if self.views in ("five", "ten"):
            pieces = five_crops(images, side=self.classifier.resolution)
        else:
            pieces = [images]
        if self.views in ("flip", "ten"):
            pieces += [piece.flip(-1) for piece in pieces]
        return pieces


def five_crops(images: Tensor, *, side: int) -> list[Tensor]:
    """Cut the center and the four corners, each (B, 3, side, side), out of images (B, 3, S, S)."""
    last = images.shape[-1] - side
    middle = round(last / 2)
    corners = [(middle, middle), (0, 0), (0, last), (last, 0), (last, last)]
    return [images[..., top : top + side, left : left + side] for top, left in corners]


def mean_log_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Return log of the mean softmax (B, K) of V logits (B, K), without underflow."""
    logs = torch.stack([one.float().log_softmax(dim=-1) for one in logits])  # (V, B, K)
    return logs.logsumexp(dim=0) - math.log(len(logits))


def at_resolution(classifier: Classifier, resolution: int) -> Classifier:
    """Return the network for another resolution; its patch positions are interpolated bicubically.

    Networks that are not plain vision transformers have their positions resized by timm.

    Raises:
        UsageError: The patches do not divide the resolution.
        CheckpointError: The network's weights are of one resolution, and cannot be resized.
    """
    if resolution == classifier.resolution:
        return classifier
    other = build_classifier(
        name=classifier.name,
        num_classes=classifier.num_classes,
        resolution=resolution,
        two_class_tokens=classifier.two_class_tokens,
    )
    weights = PretrainedWeights(classifier.backbone.state_dict(), f"{classifier.name} itself")
    try:
        load_pretrained(other, weights, keep_head=True, complete=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"{classifier.name} cannot be scored at {resolution} pixels: its weights are of "
            f"{classifier.resolution} pixels and cannot be resized ({error.message})",
            hint=f"Score it at {classifier.resolution} pixels",
        ) from error
    other.mean, other.std = classifier.mean, classifier.std
    device = next(classifier.parameters()).device
    return other.to(device).eval()
