"""The end of a run: scores the test split once and writes the result."""

from typing import Any

import torch

from deit_transfer.analysis.statistics import wilson_interval
from deit_transfer.data.dataset import ImageSet
from deit_transfer.engine.inference import Predictions, head_scores
from deit_transfer.models.pretrained import write_model_files
from deit_transfer.paper.values import paper_top1
from deit_transfer.runs.folder import PREDICTIONS_FILE, RESULT_FILE
from deit_transfer.runs.predictions import predictions_to_store, write_predictions
from deit_transfer.training import build
from deit_transfer.training.trainer import Trainer


def finish(trainer: Trainer, *, teacher_top1: float | None) -> dict[str, Any]:
    """Score the selected weights once on test, write the result, and return it."""
    weights, chosen = trainer.selected_weights()
    trainer.setup.classifier.load_state_dict(weights)
    if trainer.setup.world.is_main:
        # first: whatever the scoring meets, the weights are there
        write_model_files(
            trainer.folder.path,
            trainer.setup.classifier,
            class_names=trainer.setup.splits.class_names,
            crop_pct=build.evaluation_crop(trainer.setup.recipe),
        )
    trainer.callbacks.scoring("test")
    predictions = trainer.predict(trainer.setup.classifier, trainer.setup.splits.test)
    result = _result(trainer, predictions, chosen)
    if teacher_top1 is not None:
        result["teacher_top1"] = teacher_top1
    if trainer.setup.world.is_main:
        write_predictions(
            trainer.folder.path / PREDICTIONS_FILE,
            predictions_to_store(predictions, trainer.setup.splits.test),
        )
        # last: a run that has a result has everything
        trainer.folder.write_json(RESULT_FILE, result)
    return result


def score_facts(predictions: Predictions, images: ImageSet) -> dict[str, Any]:
    """Return the scores of a split as plain values, in percent; `heads` for distilled models."""
    correct = None
    if images.label_sets is not None:
        mask = images.label_sets.mask(predictions.class_logits.shape[1])
        correct = torch.from_numpy(mask)[predictions.indices]
    heads = head_scores(predictions, correct)
    joint = heads["joint"]
    interval = wilson_interval(round(joint.top1 * joint.n / 100), joint.n)
    facts: dict[str, Any] = {
        "top1": joint.top1,
        "top5": joint.top5,
        "mean_per_class": joint.mean_per_class,
        "loss": joint.loss,
        "top1_ci95": [interval.low, interval.high],
        "num_test_images": joint.n,
        "num_classes": predictions.class_logits.shape[1],
    }
    if predictions.distill_logits is not None:
        facts["heads"] = {name: scores.top1 for name, scores in heads.items()}
    return facts


def _result(trainer: Trainer, predictions: Predictions, chosen: dict[str, Any]) -> dict[str, Any]:
    recipe, counters = trainer.setup.recipe, trainer.counters
    resolution = trainer.setup.classifier.resolution
    splits = trainer.setup.splits
    published = splits.dataset.info.name
    paper = paper_top1(published, recipe.model.name, recipe.mode, resolution=resolution)
    last = trainer.records[-1]
    plan, repeats = trainer.durations, recipe.augment.repeats
    trainer.count_seconds()
    result: dict[str, Any] = {
        "run": str(trainer.folder),
        "mode": recipe.mode,
        "dataset": splits.name,
        "model": recipe.model.name,
        "pretrained": recipe.model.pretrained,
        "seed": recipe.run.seed,
        **score_facts(predictions, splits.test),
        "headline": recipe.data.headline,
        "images_seen": counters.images_seen,
        "epochs": trainer.durations.epochs,
        "unique_images_per_epoch": -(-plan.images_per_epoch // repeats),
        # repeated augmentation shows fewer images more often: three views are one pass
        "passes": counters.images_seen / repeats / len(splits.train),
        "steps": counters.steps_done,
        "skipped_steps": counters.skipped_steps,
        "seconds": counters.seconds,
        "train_seconds": counters.train_seconds,
        "images_per_second": counters.images_seen / max(counters.train_seconds, 1e-9),
        "data_wait_percent": 100 * counters.wait_seconds / max(counters.train_seconds, 1e-9),
        "resolution": resolution,
        "selected_epoch": chosen["epoch"],
        "weights": chosen["weights"],
        "selected_on": splits.select,
        "selects_on_test": splits.select == "test",
        "val_top1_raw": last.get("val_top1"),
        "val_top1_ema": last.get("ema_top1"),
        "teacher_agreement": last.get("teacher_agreement"),
        "counts": splits.counts,
        "data_fingerprint": trainer.setup.splits.fingerprint,
        "device": str(trainer.setup.device),
        "precision": trainer.setup.precision.name,
    }
    if paper is not None:
        result |= {"paper_top1": paper.top1, "paper_label": paper.label}
    return result
