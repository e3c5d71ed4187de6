"""Compare two finished runs: settings, environment and results, with a paired test.

Results are compared image by image, joined by the images' ids and the classes' names.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.analysis.statistics import mcnemar
from deit_transfer.errors import CheckpointError, DataError
from deit_transfer.models.pretrained import MODEL_FILE
from deit_transfer.recipe.loader import differing_values, load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import (
    DATA_FILE,
    ENVIRONMENT_FILE,
    PREDICTIONS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    RunFolder,
    open_run,
)
from deit_transfer.runs.key import PLACE_SETTINGS
from deit_transfer.runs.predictions import StoredPredictions, join_predictions, read_predictions

RESULT_FACTS = ("images_seen", "seconds", "weights", "selected_epoch", "device", "precision")
FIGURES = ("top1", "top5", "mean_per_class", "loss")


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Return in what two runs differ: settings, circumstances, and results with a paired test.

    Args:
        first: Folder of a finished run, `a` in what is returned.
        second: Folder of another one, `b`.

    Raises:
        DataError: A folder is no run, or the runs were not scored on the same images.
        CheckpointError: A run has not finished.
    """
    folders = [_finished(path) for path in (first, second)]
    recipes = [load_recipe(str(folder.path / RECIPE_FILE)) for folder in folders]
    names = _names(folders)
    answers = _answers(folders, names)
    facts = [_circumstances(f, r) for f, r in zip(folders, recipes, strict=True)]
    settings = differing_values(*recipes)
    results = [folder.read_json(RESULT_FILE) for folder in folders]
    return {
        "a": str(first),
        "b": str(second),
        "names": list(names),
        "settings": [
            {"setting": key, "a": a, "b": b, "decides": key not in PLACE_SETTINGS}
            for key, (a, b) in settings.items()
        ],
        "circumstances": [
            {"fact": key, "a": facts[0].get(key), "b": facts[1].get(key)}
            for key in dict.fromkeys((*facts[0], *facts[1]))
        ],
        "num_classes": answers[0].class_logits.shape[1],
        "figures": {key: [result.get(key) for result in results] for key in FIGURES},
        **_test(answers),
    }


def start_digest(recipe: Recipe) -> str | None:
    """Return what names the weights that a run started from; None where they are gone.

    A start from nothing, and one that names published weights, is its own name.
    """
    start = recipe.model.pretrained
    path = Path(start.removeprefix("local-dir:"))
    if path.is_dir():
        return RunFolder(path).read_json(MODEL_FILE).get("weights_sha256")
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return None if path.is_absolute() else start


def _finished(path: Path) -> RunFolder:
    folder = open_run(path)
    if not folder.read_json(RESULT_FILE):
        raise CheckpointError(
            f"{path} has not finished: there is no result to compare",
            hint=f"deit-transfer runs show {path} says how it ended",
        )
    return folder


def _names(folders: list[RunFolder]) -> tuple[str, str]:
    """Name the runs by their folders; by their paths' differing ends where those are alike."""
    paths = [folder.path.resolve() for folder in folders]
    if paths[0] == paths[1] or paths[0].name != paths[1].name:
        return paths[0].name, paths[1].name
    shared = Path(os.path.commonpath(paths))
    return paths[0].relative_to(shared).as_posix(), paths[1].relative_to(shared).as_posix()


def _answers(folders: list[RunFolder], names: tuple[str, str]) -> list[StoredPredictions]:
    """Return both runs' answers on the images, in one order, with one numbering of classes."""
    classes = [folder.class_names() for folder in folders]
    stored = [read_predictions(folder.path / PREDICTIONS_FILE) for folder in folders]
    if set(classes[0]) != set(classes[1]):
        odd = sorted(set(classes[0]) ^ set(classes[1]))
        raise DataError(
            f"the runs have different classes: {len(classes[0])} in {names[0]}, "
            f"{len(classes[1])} in {names[1]}; only one of them has {odd[0]}",
            hint="Compare runs of one dataset",
        )
    order = np.array([classes[1].index(name) for name in classes[0]], dtype=np.int64)
    stored[1] = _renumbered(stored[1], order)
    joined = join_predictions(list(zip(names, stored, strict=True)))
    sizes = [len(one.ids) for one in stored]
    if sizes != [len(joined[0].ids)] * 2:
        raise DataError(
            f"{names[0]} and {names[1]} were scored on different images: {sizes[0]:,} and "
            f"{sizes[1]:,}, of which {len(joined[0].ids):,} are the same",
            hint="Score both on one dataset: deit-transfer disagree RUN RUN --on DATASET",
        )
    return joined


def _renumbered(stored: StoredPredictions, order: NDArray[np.int64]) -> StoredPredictions:
    """Return answers whose class k is the one that was numbered order[k]."""
    number = np.argsort(order)
    distill = stored.distill_logits
    return replace(
        stored,
        labels=number[stored.labels],
        class_logits=stored.class_logits[:, order],
        distill_logits=None if distill is None else distill[:, order],
    )


def _test(answers: list[StoredPredictions]) -> dict[str, Any]:
    a, b = (one.decisions() == one.labels for one in answers)  # (N,) each
    found = mcnemar(a, b)
    return {
        "difference": found.mean,
        "difference_ci95": [found.low, found.high],
        "p_value": found.p_value,
        "test_method": found.method,
        "num_images": found.n,
        "both_right": int((a & b).sum()),
        "only_a_right": int((a & ~b).sum()),
        "only_b_right": int((b & ~a).sum()),
        "both_wrong": int((~a & ~b).sum()),
        "same_decision": int((answers[0].decisions() == answers[1].decisions()).sum()),
    }


def _circumstances(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """Return what a result depends on besides its settings: data, start, versions, machine."""
    data, result = folder.read_json(DATA_FILE), folder.read_json(RESULT_FILE)
    environment = folder.read_json(ENVIRONMENT_FILE)
    keys = ("python", "processor", "cores", "gpu", "commit")
    return {
        "data_fingerprint": data.get("fingerprint"),
        "start_digest": start_digest(recipe),
        **{key: result.get(key) for key in RESULT_FACTS},
        **environment.get("packages", {}),
        **{key: environment.get(key) for key in keys},
    }
