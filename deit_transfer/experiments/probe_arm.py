"""The probe as an arm of a comparison: fitted once, stored by key, reused."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from deit_transfer.evaluation.probe import probe_arm
from deit_transfer.experiments.train_or_reuse import TrainedRun
from deit_transfer.models.pretrained import PretrainedWeights
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.environment import describe_environment
from deit_transfer.runs.folder import (
    ENVIRONMENT_FILE,
    KEY_FILE,
    PREDICTIONS_FILE,
    RESULT_FILE,
    RunFolder,
)
from deit_transfer.runs.key import run_key
from deit_transfer.runs.predictions import write_predictions
from deit_transfer.training.callbacks import Callbacks
from deit_transfer.training.data_splits import DataSplits

LINE_EVERY_S = 30.0
KEY_LENGTH = 12  # hexadecimal digits of a probe's key in its folder's name


def probe_or_reuse(
    recipe: Recipe, start: PretrainedWeights, splits: DataSplits, *, out: Path, callbacks: Callbacks
) -> TrainedRun:
    """Return the probe of a start on this data that is below `out`; make it if need be.

    Its folder holds result and predictions as a run's does, but no recipe: nothing was trained.

    Args:
        recipe: What would be fine-tuned; says data, network and how images are shown.
        start: The weights whose features are read.
        inputs: The data.
        out: Folder that holds the runs.
        observer: Who is told what happens.
    """
    key = hashlib.sha256(json.dumps(["probe", run_key(recipe, splits.fingerprint, start)]).encode())
    dataset = Path(recipe.data.dataset).name
    place = out / dataset / f"probe-{recipe.model.name}-{key.hexdigest()[:KEY_LENGTH]}"
    folder = RunFolder(place)
    if earlier := folder.read_json(RESULT_FILE):
        callbacks.note(f"reused: {folder} is the probe of these weights on this data")
        return TrainedRun(folder, earlier, reused=True)
    probed = probe_arm(recipe, splits, start, progress=_told_now_and_then(callbacks))
    # one classifier whatever the seed
    result = {**probed.result, "run": str(folder), "seed": None}
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json(KEY_FILE, {"key": key.hexdigest()})
    folder.write_json(ENVIRONMENT_FILE, describe_environment())
    write_predictions(folder.path / PREDICTIONS_FILE, probed.predictions)
    folder.write_json(RESULT_FILE, result)
    callbacks.done(result)
    return TrainedRun(folder, result, reused=False)


def _told_now_and_then(callbacks: Callbacks) -> Callable[[int, int], None]:
    """Return what tells how many features are computed, a line each half a minute."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > LINE_EVERY_S:
            last = time.monotonic()
            callbacks.note(f"features of {done:,} of {total:,} images")

    return tell
