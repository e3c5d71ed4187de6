"""Start the heads from a logistic regression on frozen features (LP-FT, Kumar et al. 2022).

A random head sends large, meaningless gradients into a pretrained backbone in the first steps. A
head that already fits the frozen features does not, and costs one forward pass over the images.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deit_transfer.analysis.probe import FOLDS, LogisticProbe, logistic_probe
from deit_transfer.batch import Batch
from deit_transfer.engine.precision import Precision
from deit_transfer.models.classifier import Classifier, head_names

# of the probe's search, the part that a few hundred features choose from
PENALTY_GRID = (1e-3, 1e-2, 1e-1, 1.0)
# of so many images one fold of five is enough to choose among them
FEW_IMAGES = 200


@dataclass(frozen=True, kw_only=True)
class HeadStart:
    """The fit of every head, the images it took, and the seconds an image of its forward pass."""

    fits: list[LogisticProbe]
    num_images: int
    seconds_per_image: float


def linear_heads(classifier: Classifier) -> list[nn.Linear]:
    """Return the classification heads that are linear layers: one, or two if distilled."""
    heads = [classifier.backbone.get_submodule(name) for name in head_names(classifier.backbone)]
    return [head for head in heads if isinstance(head, nn.Linear)]


def start_heads(
    classifier: Classifier,
    batches: Iterable[Batch],
    *,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    precision: Precision,
    class_shares: Tensor | None = None,
    most_seconds: float = math.inf,
) -> HeadStart | None:
    """Fit every linear head to the features of these images; None where they are of one class.

    Args:
        classifier: Its backbone is frozen meanwhile; its heads are overwritten.
        batches: Training images as evaluation shows them.
        normalize: From pixels (B, 3, H, W) uint8 to the network's input.
        device: Where the network is.
        precision: Of the forward passes.
        class_shares: (K,) shares of the classes that a balanced loss will add to the logits.
        most_seconds: The batches that have been read by then have to do.
    """
    began = time.monotonic()
    heads = linear_heads(classifier)
    features, labels = _head_inputs(
        classifier,
        heads,
        _until(batches, began + most_seconds),
        normalize=normalize,
        device=device,
        precision=precision,
    )
    seconds = time.monotonic() - began
    if len(np.unique(labels)) < 2:
        return None
    fits = [
        logistic_probe(
            rows,
            labels,
            num_classes=classifier.num_classes,
            grid=PENALTY_GRID,
            max_folds=FOLDS if len(labels) <= FEW_IMAGES else 1,
        )
        for rows in features
    ]
    for head, fit in zip(heads, fits, strict=True):
        # a class that these images lack will be learned: it starts level with the rarest
        bias = np.where(np.isin(np.arange(len(fit.bias)), labels), fit.bias, fit.bias[labels].min())
        if class_shares is not None:
            bias = bias - class_shares.log().numpy()
        set_head(head, fit.weight, bias.astype(np.float32))
    return HeadStart(fits=fits, num_images=len(labels), seconds_per_image=seconds / len(labels))


def set_head(head: nn.Linear, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Copy weight (K, D) and bias (K,) into a head."""
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))


def _until(batches: Iterable[Batch], deadline: float) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        if time.monotonic() > deadline:
            return


def _head_inputs(
    classifier: Classifier,
    heads: list[nn.Linear],
    batches: Iterable[Batch],
    *,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    precision: Precision,
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Return what reaches each head, (N, D), and the labels (N,)."""
    found: list[list[Tensor]] = [[] for _ in heads]
    labels: list[Tensor] = []
    handles = [
        head.register_forward_pre_hook(
            lambda _module, inputs, kept=kept: kept.append(inputs[0].float().cpu())
        )
        for head, kept in zip(heads, found, strict=True)
    ]
    was_training = classifier.training
    classifier.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                with precision.autocast():
                    classifier(normalize(batch.images.to(device)))
                labels.append(batch.labels)
    finally:
        classifier.train(was_training)
        for handle in handles:
            handle.remove()
    return [torch.cat(kept).numpy() for kept in found], torch.cat(labels).numpy()
