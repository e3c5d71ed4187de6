"""Run inference on a split. Every reported metric goes through here."""

import math
from collections.abc import Iterator

import torch
from torch import nn

from deit_transfer.batch import Batch
from deit_transfer.data.dataset import Progress
from deit_transfer.data.pipeline.loader import EvalBatches
from deit_transfer.engine.distributed import World
from deit_transfer.engine.inference import Predictions, predict_batches
from deit_transfer.engine.precision import Precision
from deit_transfer.engine.signals import StopSignals
from deit_transfer.models.classifier import Classifier
from deit_transfer.training import build


def predict_split(
    model: nn.Module,
    batches: EvalBatches,
    *,
    classifier: Classifier,
    device: torch.device,
    precision: Precision,
    world: World,
    stop: StopSignals,
    progress: Progress | None = None,
) -> Predictions:
    """Return the logits on every image of a split; an unreadable image counts as wrong.

    Args:
        model: The classifier, or an average of its weights.
        batches: This process's share of the split.
        classifier: Says how images are normalized.
        device: Where the model is.
        precision: Of the forward passes.
        world: The processes that share the split.
        stop: Looked at before each batch.
        progress: Called after each batch with (images answered, images of this process).
    """
    predictions = predict_batches(
        model,
        _counted(batches, progress),
        device=device,
        precision=precision,
        normalize=build.normalization(classifier),
        world=world,
        stop=stop,
    )
    unreadable = [bad.index for share in world.gather(batches.bad) for bad in share]
    if unreadable:
        wrong = torch.isin(predictions.indices, torch.tensor(unreadable))
        predictions.class_logits[wrong] = math.nan
        if predictions.distill_logits is not None:
            predictions.distill_logits[wrong] = math.nan
    return predictions


def _counted(batches: EvalBatches, progress: Progress | None) -> Iterator[Batch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.labels)
        if progress is not None:
            progress(done, batches.num_images)
