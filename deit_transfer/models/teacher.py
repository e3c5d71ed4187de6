"""The frozen teacher: it gets the student's images in its own normalization and size.

Shapes: B images, K classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from deit_transfer.models.classifier import Classifier


class Teacher:
    """Maps the student's images to frozen logits.

    Not an `nn.Module`, so that a student that holds one neither trains it, switches its mode,
    nor saves it.

    Args:
        classifier: The teacher's network; it is frozen and put into evaluation mode.
        student_mean: Per channel, as the images arrive normalized.
        student_std: Per channel, as the images arrive normalized.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        student_mean: tuple[float, ...],
        student_std: tuple[float, ...],
    ) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.num_classes = classifier.num_classes
        self.resolution = classifier.resolution
        self._same_colors = (student_mean, student_std) == (classifier.mean, classifier.std)
        device = next(classifier.parameters()).device
        mean, std = _per_channel(classifier.mean, device), _per_channel(classifier.std, device)
        self._scale = _per_channel(student_std, device) / std  # (1, 3, 1, 1)
        self._shift = (_per_channel(student_mean, device) - mean) / std  # (1, 3, 1, 1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of the teacher.

        A distilled teacher answers with both heads together: the logarithm of the mean of their
        probabilities, so that its softmax is the paper's late fusion and its argmax the fused
        label.

        Args:
            images: (B, 3, H, W), normalized with the student's mean and std.

        Returns:
            (B, K), float32.
        """
        heads = self.classifier(self.convert(images))
        class_logits = heads.class_logits.float()  # (B, K)
        if heads.distill_logits is None:
            return class_logits
        distill_logits = heads.distill_logits.float()  # (B, K)
        summed = torch.logaddexp(class_logits.log_softmax(-1), distill_logits.log_softmax(-1))
        return summed - math.log(2.0)

    def convert(self, images: Tensor) -> Tensor:
        """Return the images in the teacher's normalization and at its resolution."""
        if not self._same_colors:
            images = images * self._scale + self._shift
        if images.shape[-2:] != (self.resolution, self.resolution):
            size = (self.resolution, self.resolution)
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
        return images


def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
