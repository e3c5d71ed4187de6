"""Uniform soup: average the weights of finished runs of one arm, and score it once on test.

Source: Wortsman et al., Model soups, ICML 2022 (arXiv 2203.05482), section 2, "uniform soup".
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deit_transfer.engine.distributed import World
from deit_transfer.engine.precision import resolve_device, resolve_precision
from deit_transfer.engine.signals import StopSignals
from deit_transfer.experiments.preflight import GO_ON
from deit_transfer.experiments.train_or_reuse import TrainedRun
from deit_transfer.models.pretrained import read_model, weights_path, write_model_files
from deit_transfer.recipe.loader import dump_recipe
from deit_transfer.recipe.schema import Evidence, Recipe
from deit_transfer.runs.environment import describe_environment
from deit_transfer.runs.folder import (
    ENVIRONMENT_FILE,
    KEY_FILE,
    PREDICTIONS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    create_numbered_folder,
)
from deit_transfer.runs.key import find_by_key
from deit_transfer.runs.predictions import predictions_to_store, write_predictions
from deit_transfer.training import build
from deit_transfer.training.callbacks import Callbacks
from deit_transfer.training.data_splits import DataSplits
from deit_transfer.training.final_eval import score_facts
from deit_transfer.training.predict_split import predict_split
from deit_transfer.training.resume import record_data

SOUP = "soup"
SHARED = (
    "dataset",
    "model",
    "pretrained",
    "epochs",
    "resolution",
    "counts",
    "data_fingerprint",
)
SUMMED = ("images_seen", "seconds")


def make_soup(
    runs: Sequence[TrainedRun],
    recipe: Recipe,
    splits: DataSplits,
    *,
    out: Path,
    callbacks: Callbacks,
) -> TrainedRun:
    """Average the weights of finished runs, score the average once on test, and keep it as a run.

    A soup of the same runs that is below `out` already is taken as it is.

    Args:
        runs: At least two runs of one recipe with different seeds.
        recipe: Of any of them; says how images are scored.
        inputs: The data that all of them were trained on.
        out: Folder that holds the runs.
        observer: Who is told what happens.
    """
    key = _soup_key(runs, recipe, splits)
    if found := find_by_key(out, key, finished=True):
        callbacks.note(f"reused: {found} is the average of these {len(runs)} runs")
        return TrainedRun(found, found.read_json(RESULT_FILE), reused=True)
    began = time.monotonic()
    device = resolve_device(recipe.run.device)
    precision = resolve_precision(recipe.run.precision, device)
    classifier, class_names = read_model(runs[0].folder.path, device=device)
    classifier.backbone.load_state_dict(_average(runs), strict=True)
    with StopSignals(before_exit=callbacks.leave, hint=GO_ON) as stop:
        predictions = predict_split(
            classifier,
            build.scoring_batches(
                recipe, splits.test, classifier, World(), lambda _done, _total: stop.check()
            ),
            classifier=classifier,
            device=device,
            precision=precision,
            world=World(),
            stop=stop,
        )
    first, last = runs[0].result["seed"], runs[-1].result["seed"]
    name = f"{Path(recipe.data.dataset).name}/{SOUP}-{recipe.model.name}-seeds{first}-{last}"
    folder = create_numbered_folder(out, name)
    result = {
        "run": str(folder),
        **_common_facts(runs),
        "mode": SOUP,
        "seed": None,
        **score_facts(predictions, splits.test),
        "headline": recipe.data.headline,
        "soup_of": [str(run.folder) for run in runs],
        "device": str(device),
        "precision": precision.name,
    }
    # what it cost is what its runs cost, and this one scoring
    result["seconds"] += time.monotonic() - began
    folder.write_json(KEY_FILE, {"key": key})
    folder.write_json(ENVIRONMENT_FILE, describe_environment())
    record_data(folder, splits)
    write_model_files(
        folder.path,
        classifier,
        class_names=class_names,
        crop_pct=build.evaluation_crop(recipe),
    )
    write_predictions(
        folder.path / PREDICTIONS_FILE, predictions_to_store(predictions, splits.test)
    )
    folder.write_text(RECIPE_FILE, dump_recipe(_titled(recipe, len(runs))))
    folder.write_json(RESULT_FILE, result)
    folder.set_status("done")
    callbacks.done(result)
    return TrainedRun(folder, result, reused=False)


def _average(runs: Sequence[TrainedRun]) -> dict[str, Tensor]:
    """Return the mean of the runs' weights; sums are in double precision, so order is no matter."""
    sums: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    for run in runs:
        classifier, _ = read_model(run.folder.path, device=torch.device("cpu"))
        for key, value in classifier.backbone.state_dict().items():
            kinds[key] = value.dtype
            sums[key] = sums.get(key, 0) + value.double()
    return {key: (value / len(runs)).to(kinds[key]) for key, value in sums.items()}


def _soup_key(runs: Sequence[TrainedRun], recipe: Recipe, splits: DataSplits) -> str:
    """Return what names a soup: the weights in it, how images are shown, and the data."""
    weights = sorted(_digest(weights_path(run.folder.path)) for run in runs)
    shown = [runs[0].result["resolution"], build.evaluation_crop(recipe)]
    described = json.dumps([SOUP, weights, shown, splits.fingerprint])
    return hashlib.sha256(described.encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _common_facts(runs: Sequence[TrainedRun]) -> dict[str, Any]:
    facts = {key: runs[0].result[key] for key in SHARED if key in runs[0].result}
    facts |= {key: sum(run.result[key] for run in runs) for key in SUMMED}
    return facts | {"images_per_second": None, "weights": "average of the runs"}


def _titled(recipe: Recipe, num_runs: int) -> Recipe:
    """Return the recipe of its runs, under a title that says what the soup is."""
    title = f"Uniform soup of {num_runs} runs: {recipe.title}"
    return recipe.model_copy(update={"title": title, "evidence": Evidence()})
