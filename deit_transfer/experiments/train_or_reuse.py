"""Train one run of many, or reuse it if it is finished."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.engine.loop import StepReport
from deit_transfer.errors import DataError
from deit_transfer.experiments.preflight import GO_ON
from deit_transfer.models.pretrained import PretrainedWeights
from deit_transfer.models.variants import distilled_form
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.header import HeaderFacts
from deit_transfer.runs.folder import PREDICTIONS_FILE, RESULT_FILE, RunFolder
from deit_transfer.runs.key import find_by_key, run_key
from deit_transfer.runs.predictions import read_predictions
from deit_transfer.training.callbacks import Callbacks
from deit_transfer.training.data_splits import DataSplits
from deit_transfer.training.train import train


@dataclass(frozen=True)
class TrainedRun:
    """One finished run."""

    folder: RunFolder
    result: dict[str, Any]
    reused: bool


def train_or_reuse(
    recipe: Recipe,
    start: PretrainedWeights,
    splits: DataSplits,
    *,
    out: Path,
    callbacks: Callbacks,
    name: str | None = None,
) -> TrainedRun:
    """Return the finished run of this recipe, data and start below `out`; train it if need be.

    Args:
        recipe: Checked and whole.
        start: What the recipe's start names.
        inputs: The data.
        out: Folder that holds the runs.
        observer: Who is told what happens.
        name: The run's folder below `out`; None makes one. A run that was cut off goes on there.
    """
    key = run_key(recipe, splits.fingerprint, start)
    if found := find_by_key(out, key, finished=True):
        callbacks.note(f"reused: {found} was trained with this recipe on this data")
        return TrainedRun(found, found.read_json(RESULT_FILE), reused=True)
    result = train(
        recipe, out=out, name=name, resume=True, splits=splits, callbacks=callbacks, go_on=GO_ON
    )
    return TrainedRun(RunFolder(Path(result["run"])), result, reused=False)


def epoch_top1(record: Mapping[str, Any]) -> float | None:
    """Return an epoch's validation top-1: that of the better of the raw and averaged weights."""
    figures = [record.get("val_top1"), record.get("ema_top1")]
    return max((figure for figure in figures if figure is not None), default=None)


def validation_top1(run: TrainedRun) -> float:
    """Return the validation top-1 of the very weights that a finished run kept."""
    weights = "ema_top1" if run.result["weights"] == "ema" else "val_top1"
    epoch = run.result["selected_epoch"]
    for record in run.folder.metrics():
        if record["epoch"] == epoch and record.get(weights) is not None:
            return float(record[weights])
    raise DataError(
        f"{run.folder} has no validation accuracy for epoch {epoch}",
        hint="Remove the run so that it is trained anew",
    )


def test_predictions(folder: RunFolder, splits: DataSplits) -> NDArray[np.bool_]:
    """Return which test images (N,) a run got right, joined by image id, in the split's order."""
    stored = read_predictions(folder.path / PREDICTIONS_FILE)
    missing = sorted(set(splits.test.ids) - set(stored.ids.tolist()))
    if missing:
        raise DataError(
            f"{folder} has no prediction for {len(missing)} test images, such as {missing[0]}",
            hint="Remove the run so that it is trained anew",
        )
    stored = stored.take(splits.test.ids)
    return stored.decisions() == stored.labels


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe with another seed."""
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})})


def without_teacher(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that is to learn from labels alone."""
    return {key: value for key, value in overrides.items() if not key.startswith("distill.")}


def with_teacher(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a distilled run: a plain model that was named is taken distilled."""
    model = overrides.get("model.name")
    if model is None or "distilled" in model or overrides.get("distill.through") == "class":
        return dict(overrides)
    return {**overrides, "model.name": distilled_form(str(model))}


class ValidationOnly:
    """Callbacks that show the validation metric in place of the test metric.

    Args:
        inner: Who is told.
        num_images: Validation images.
        on_epoch: Called after each scored epoch with its number, from 1, the number of all, and
            its validation top-1; what it raises ends the run.
    """

    def __init__(
        self,
        inner: Callbacks,
        *,
        num_images: int,
        on_epoch: Callable[[int, int, float], None] | None = None,
    ) -> None:
        self._inner = inner
        self._num_images = num_images
        self._on_epoch = on_epoch
        self.best: float | None = None

    def note(self, text: str) -> None:
        self._inner.note(text)

    def warn(self, text: str) -> None:
        self._inner.warn(text)

    def loading(self, dataset: str, done: int, total: int) -> None:
        self._inner.loading(dataset, done, total)

    def header(self, facts: HeaderFacts) -> None:
        self._inner.header(facts)

    def step(self, report: StepReport, total_steps: int) -> None:
        self._inner.step(report, total_steps)

    def scoring(self, split: str) -> None:
        self._inner.scoring(split)

    def epoch(self, record: dict[str, Any]) -> None:
        self._inner.epoch(record)
        top1 = epoch_top1(record)
        if top1 is None:
            return
        self.best = top1 if self.best is None else max(self.best, top1)
        if self._on_epoch is not None:
            self._on_epoch(record["epoch"], record["epochs"], top1)

    def done(self, result: dict[str, Any]) -> None:
        run = TrainedRun(RunFolder(Path(result["run"])), result, reused=False)
        kept = {"top1": validation_top1(run), "num_test_images": self._num_images, "split": "val"}
        self._inner.done({**result, **kept})

    def stopping(self) -> None:
        self._inner.stopping()

    def leave(self) -> None:
        self._inner.leave()
