"""Start the heads from a logistic regression on frozen features (LP-FT, Kumar et al. 2022).

A random head sends large, meaningless gradients into a pretrained backbone in the first steps. A
head that already fits the frozen features does not, and costs one forward pass over the images.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deit_transfer.batch import Batch
from deit_transfer.engine.precision import Precision
from deit_transfer.models.classifier import Classifier, head_names

# of logistic regression on standardized features: 1 is scikit-learn's default
INVERSE_REGULARIZATION = 1.0
MAX_ITERATIONS = 200


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
) -> int:
    """Fit every linear head to the features of these images; return the number of images.

    Args:
        classifier: Its backbone is frozen meanwhile; its heads are overwritten.
        batches: Training images as evaluation shows them.
        normalize: From pixels (B, 3, H, W) uint8 to the network's input.
        device: Where the network is.
        precision: Of the forward passes.
    """
    heads = linear_heads(classifier)
    features, labels = _head_inputs(
        classifier, heads, batches, normalize=normalize, device=device, precision=precision
    )
    if len(np.unique(labels)) < 2:
        return 0
    for head, rows in zip(heads, features, strict=True):
        weight, bias = fit_head(rows, labels, num_classes=classifier.num_classes)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))
    return len(labels)


def fit_head(
    features: NDArray[np.float32], labels: NDArray[np.int64], *, num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight (K, D) and bias (K,) of a logistic regression on features (N, D).

    Features are standardized for the fit, which is then folded into the weights. A class without
    images gets the lowest bias of all and no weights.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    model = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=MAX_ITERATIONS)
    model.fit((features - mean) / scale, labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = np.zeros((num_classes, features.shape[1]), dtype=np.float32)
    bias = np.full(num_classes, intercepts.min(), dtype=np.float32)
    weight[model.classes_] = coefficients / scale
    bias[model.classes_] = intercepts - (coefficients / scale) @ mean
    return weight, bias


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
