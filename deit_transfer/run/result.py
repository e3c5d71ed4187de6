"""Own the end of a run: the one scoring of the test split, and the files that hold the result."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deit_transfer.analysis.statistics import wilson_interval
from deit_transfer.batch import Heads
from deit_transfer.data.contract import ImageSet
from deit_transfer.engine.objectives import late_fusion
from deit_transfer.engine.scoring import Predictions, head_scores
from deit_transfer.errors import DataError
from deit_transfer.models.start import write_model_files
from deit_transfer.report.paper_figures import paper_top1
from deit_transfer.run.session import Session
from deit_transfer.run.workdir import PREDICTIONS_FILE, RESULT_FILE


def finish(session: Session, *, teacher_top1: float | None) -> dict[str, Any]:
    """Score the selected weights once on test, write the result, and return it."""
    weights, chosen = session.selected_weights()
    session.blueprint.classifier.load_state_dict(weights)
    session.observer.scoring("test")
    predictions = session.predict(session.blueprint.classifier, session.blueprint.inputs.test)
    result = _result(session, predictions, chosen)
    if teacher_top1 is not None:
        result["teacher_top1"] = teacher_top1
    if session.blueprint.world.is_main:
        write_model_files(
            session.folder.path,
            session.blueprint.classifier,
            class_names=session.blueprint.inputs.class_names,
        )
        save_predictions(
            session.folder.path / PREDICTIONS_FILE, predictions, session.blueprint.inputs.test
        )
        # last: a run that has a result has everything
        session.folder.write_json(RESULT_FILE, result)
    return result


def score_facts(predictions: Predictions, images: ImageSet) -> dict[str, Any]:
    """Return the scores of a split as plain values, in percent; `heads` for distilled models."""
    right = None
    if images.label_sets is not None:
        mask = images.label_sets.mask(predictions.class_logits.shape[1])
        right = torch.from_numpy(mask)[predictions.indices]
    heads = head_scores(predictions, right)
    joint = heads["joint"]
    interval = wilson_interval(round(joint.top1 * joint.n / 100), joint.n)
    facts: dict[str, Any] = {
        "top1": joint.top1,
        "top5": joint.top5,
        "mean_per_class": joint.mean_per_class,
        "loss": joint.loss,
        "top1_ci95": [interval.low, interval.high],
        "num_test_images": joint.n,
    }
    if predictions.distil_logits is not None:
        facts["heads"] = {name: scores.top1 for name, scores in heads.items()}
    return facts


def save_predictions(path: Path, predictions: Predictions, images: ImageSet) -> None:
    """Write ids, labels and logits of a split; a name's logits are joined by id, not by place."""
    arrays: dict[str, Any] = {
        "ids": np.array([images.ids[index] for index in predictions.indices.tolist()]),
        "labels": predictions.labels.numpy(),
        "class_logits": predictions.class_logits.numpy(),
    }
    if predictions.distil_logits is not None:
        arrays["distil_logits"] = predictions.distil_logits.numpy()
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def read_correct(path: Path) -> dict[str, bool]:
    """Return, by image id, whether a run's joint decision was right.

    Raises:
        DataError: The run holds no predictions.
    """
    if not path.is_file():
        raise DataError(f"There are no predictions in {path}", hint="Score the run again")
    with np.load(path) as stored:
        decisions = _joint_decisions(stored["class_logits"], stored.get("distil_logits"))
        right = decisions == stored["labels"]
        return dict(zip(stored["ids"].tolist(), right.tolist(), strict=True))


def _joint_decisions(
    class_logits: NDArray[np.float32], distil_logits: NDArray[np.float32] | None
) -> NDArray[np.int64]:
    distil = None if distil_logits is None else torch.from_numpy(distil_logits)
    return late_fusion(Heads(torch.from_numpy(class_logits), distil)).argmax(dim=-1).numpy()


def _result(session: Session, predictions: Predictions, chosen: dict[str, Any]) -> dict[str, Any]:
    recipe, progress = session.blueprint.recipe, session.progress
    resolution = session.blueprint.classifier.resolution
    inputs = session.blueprint.inputs
    published = inputs.dataset.info.name
    paper = paper_top1(published, recipe.model.name, recipe.mode, resolution=resolution)
    last = session.records[-1]
    plan, repeats = session.blueprint.durations, recipe.augment.repeats
    session.count_seconds()
    result: dict[str, Any] = {
        "run": str(session.folder),
        "mode": recipe.mode,
        "dataset": inputs.name,
        "model": recipe.model.name,
        "start": recipe.model.start,
        "seed": recipe.run.seed,
        **score_facts(predictions, inputs.test),
        "headline": recipe.data.headline,
        "images_seen": progress.images_seen,
        "epochs": session.blueprint.durations.epochs,
        "unique_images_per_epoch": -(-plan.images_per_epoch // repeats),
        # repeated augmentation shows fewer images more often: three views are one pass
        "passes": progress.images_seen / repeats / len(inputs.train),
        "steps": progress.steps_done,
        "skipped_steps": progress.skipped_steps,
        "seconds": progress.seconds,
        "train_seconds": progress.train_seconds,
        "images_per_second": progress.images_seen / max(progress.train_seconds, 1e-9),
        "data_wait_percent": 100 * progress.wait_seconds / max(progress.train_seconds, 1e-9),
        "resolution": resolution,
        "selected_epoch": chosen["epoch"],
        "weights": chosen["weights"],
        "selected_on": recipe.data.select,
        "selects_on_test": recipe.data.select == "test",
        "val_top1_raw": last.get("val_top1"),
        "val_top1_ema": last.get("ema_top1"),
        "teacher_agreement": last.get("teacher_agreement"),
        "counts": inputs.counts,
        "data_fingerprint": session.blueprint.inputs.fingerprint,
        "device": str(session.blueprint.device),
        "precision": session.blueprint.precision.name,
    }
    if paper is not None:
        result |= {"paper_top1": paper.top1, "paper_label": paper.label}
    return result
