"""Inference on a split, each image once, and the accuracy and loss of the predictions.

Counts are whole numbers over all processes, so scores do not depend on batches or processes.
Shapes: N images of the split, K classes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deit_transfer.batch import Batch, HeadLogits
from deit_transfer.engine.distributed import World
from deit_transfer.engine.losses import late_fusion
from deit_transfer.engine.precision import Precision
from deit_transfer.engine.signals import StopSignals

TOP_K = 5
# Probabilities below float32's smallest normal number count as it: a finite loss for a sure error.
MIN_PROBABILITY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Predictions:
    """Logits on a split, on the CPU, in the order of `indices`, each index once.

    Shapes: indices, labels (N,) int64; class_logits, distill_logits (N, K) float32.
    """

    indices: Tensor
    labels: Tensor
    class_logits: Tensor
    distill_logits: Tensor | None

    @property
    def heads(self) -> HeadLogits:
        """The logits of both heads."""
        return HeadLogits(self.class_logits, self.distill_logits)


@dataclass(frozen=True)
class Scores:
    """Accuracies of N predictions in percent; loss is the mean of -log p(label).

    `mean_per_class` averages over the classes that have images. `nonfinite` counts the predictions
    that are NaN or infinite; they count as wrong.
    """

    top1: float
    top5: float
    mean_per_class: float
    loss: float
    n: int
    nonfinite: int


@torch.no_grad()
def predict_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: Precision,
    normalize: Callable[[Tensor], Tensor],
    world: World | None = None,
    stop: StopSignals | None = None,
) -> Predictions:
    """Return the model's logits on a split, the same in every process.

    Args:
        model: Maps images (B, 3, H, W) to HeadLogits. Put into evaluation mode, and back after.
        batches: This process's share of the split; the shares must not overlap.
        device: Where the model is.
        precision: Of the forward passes; the logits are float32.
        normalize: Turns images (B, 3, H, W) uint8 into the model's float input.
        world: The processes that share the split; all of them must call.
        stop: Looked at before each batch.

    Raises:
        StoppedError: A signal arrived.
        ValueError: The split is empty, or an image came twice.
    """
    world = world or World()
    was_training = model.training
    model.eval()
    try:
        parts = [
            _forward(model, batch, device=device, precision=precision, normalize=normalize)
            for batch in _in_step(batches, world, stop)
        ]
    finally:
        model.train(was_training)
    parts = [part for share in world.gather(_joined(parts)) for part in share]
    if not parts:
        raise ValueError("there is nothing to predict: the split holds no image")
    return _sorted(_joined(parts)[0])


def head_scores(predictions: Predictions, correct: Tensor | None = None) -> dict[str, Scores]:
    """Score the class head, the distillation head and both together (late fusion).

    A model with one head has "class" and "joint" only, and they are equal.

    Args:
        predictions: Of N images.
        correct: (N, K) bool, all correct labels where there may be several, as in ImageNet-ReaL;
            None where the label is the only one.
    """
    heads = {"class": HeadLogits(predictions.class_logits, None)}
    if predictions.distill_logits is not None:
        heads["distill"] = HeadLogits(predictions.distill_logits, None)
    heads["joint"] = predictions.heads
    named = {}
    for name, logits in heads.items():
        probabilities = late_fusion(logits)  # (N, K)
        labels = (
            predictions.labels if correct is None else likeliest_correct(probabilities, correct)
        )
        named[name] = scores(probabilities, labels)
    return named


def likeliest_correct(probabilities: Tensor, correct: Tensor) -> Tensor:
    """Return, of each image's correct labels, the most probable one, (N,).

    An image counts as correct when its likeliest class is any of its correct ones, so this is the
    label to score it by (Beyer et al. 2020, arXiv 2006.07159, section 4).
    """
    return probabilities.masked_fill(~correct, -1.0).argmax(dim=-1)


def scores(probabilities: Tensor, labels: Tensor) -> Scores:
    """Compute top-1, top-5, mean per class and loss.

    The rank of a label is the number of classes with a higher probability, and of those with the
    same one and a lower number: ties are broken alike everywhere, and not in the label's favor.

    Args:
        probabilities: (N, K), N and K above 0.
        labels: (N,) int64 in 0..K-1.
    """
    num_images, num_classes = probabilities.shape
    finite = probabilities.isfinite().all(dim=-1)  # (N,)
    own = probabilities.gather(1, labels[:, None])  # (N, 1)
    classes = torch.arange(num_classes, device=labels.device)
    before = (probabilities > own) | ((probabilities == own) & (classes < labels[:, None]))
    rank = torch.where(finite, before.sum(dim=-1), num_classes)  # (N,)
    losses = -own[:, 0].double().nan_to_num(nan=0.0).clamp_min(MIN_PROBABILITY).log()  # (N,)
    return Scores(
        top1=_percent(int((rank == 0).sum()), num_images),
        top5=_percent(int((rank < min(TOP_K, num_classes)).sum()), num_images),
        mean_per_class=_mean_per_class(rank == 0, labels, num_classes),
        loss=float(losses.mean()),
        n=num_images,
        nonfinite=int((~finite).sum()),
    )


def _percent(correct: int, total: int) -> float:
    return 100 * correct / total


def _mean_per_class(correct: Tensor, labels: Tensor, num_classes: int) -> float:
    totals = torch.bincount(labels, minlength=num_classes).tolist()
    counts = torch.bincount(labels[correct], minlength=num_classes).tolist()
    rates = [_percent(count, total) for count, total in zip(counts, totals, strict=True) if total]
    return sum(rates) / len(rates)


def _forward(
    model: nn.Module,
    batch: Batch,
    *,
    device: torch.device,
    precision: Precision,
    normalize: Callable[[Tensor], Tensor],
) -> Predictions:
    images = normalize(batch.images.to(device, non_blocking=True))  # (B, 3, H, W)
    with precision.autocast():
        heads: HeadLogits = model(images)
    distill_logits = heads.distill_logits
    return Predictions(
        indices=batch.indices.cpu(),
        labels=batch.labels.cpu(),
        class_logits=heads.class_logits.float().cpu(),
        distill_logits=None if distill_logits is None else distill_logits.float().cpu(),
    )


def _in_step(batches: Iterable[Batch], world: World, stop: StopSignals | None) -> Iterator[Batch]:
    """Yield this process's batches; all processes look for a stop as often as the longest does."""
    iterator = iter(batches)
    while True:
        if stop:
            stop.check(world)
        batch = next(iterator, None)
        if not world.any(batch is not None):
            return
        if batch is not None:
            yield batch


def _joined(parts: list[Predictions]) -> list[Predictions]:
    """Join parts into one, or none when there are none."""
    if not parts:
        return []
    distill_parts = [part.distill_logits for part in parts if part.distill_logits is not None]
    return [
        Predictions(
            indices=torch.cat([part.indices for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            class_logits=torch.cat([part.class_logits for part in parts]),
            distill_logits=torch.cat(distill_parts) if distill_parts else None,
        )
    ]


def _sorted(predictions: Predictions) -> Predictions:
    indices, order = predictions.indices.sort()
    if (indices[1:] == indices[:-1]).any():
        doubled = indices[1:][indices[1:] == indices[:-1]].unique().tolist()
        raise ValueError(f"images came twice, at indices {doubled[:8]}")
    distill_logits = predictions.distill_logits
    return Predictions(
        indices=indices,
        labels=predictions.labels[order],
        class_logits=predictions.class_logits[order],
        distill_logits=None if distill_logits is None else distill_logits[order],
    )
