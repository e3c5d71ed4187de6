"""Own scoring a finished run: again on its own test split, or on another dataset."""

from pathlib import Path
from typing import Any

import numpy as np

from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.contract import Dataset, ImageSet
from deit_transfer.engine.distributed import World
from deit_transfer.engine.precision import resolve_device, resolve_precision
from deit_transfer.engine.stop import StopSignals
from deit_transfer.errors import DataError
from deit_transfer.models.start import read_model
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.run import assemble
from deit_transfer.run.answers import answer
from deit_transfer.run.inputs import load_inputs, spoken_name
from deit_transfer.run.result import score_facts
from deit_transfer.run.workdir import RECIPE_FILE, RESULT_FILE, open_run


def evaluate(
    run: Path, dataset_name: str | None = None, *, overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Score a run's network and return the result object.

    Args:
        run: Folder of a finished run.
        dataset_name: Catalogue name or folder; None scores the run's own test split.
        overrides: Recipe settings of place and precision, by dotted location.

    Raises:
        DataError: The folder is no run, or the dataset has classes that the run never saw.
    """
    folder = open_run(run)
    recipe = load_recipe(str(folder.path / RECIPE_FILE), overrides=overrides)
    device = resolve_device(recipe.run.device)
    precision = resolve_precision(recipe.run.precision, device)
    classifier, class_names = read_model(folder.path, device=device)
    with StopSignals(hint="") as stop:

        def look_for_stop(_done: int, _total: int) -> None:
            stop.check()

        if dataset_name is None:
            inputs = load_inputs(recipe.data, progress=look_for_stop)
            title, test, notes = inputs.name, inputs.test, inputs.dataset.notes
        else:
            dataset = _load_other(dataset_name, recipe)
            title, notes = spoken_name(dataset), dataset.notes
            test = _in_run_classes(dataset, class_names)
        predictions = answer(
            classifier,
            assemble.scoring_batches(recipe, test, classifier, World(), look_for_stop),
            classifier=classifier,
            device=device,
            precision=precision,
            world=World(),
            stop=stop,
        )
    earlier = folder.read_json(RESULT_FILE)
    kept = ("mode", "model", "start", "seed", "epochs", "images_seen", "weights")
    return {
        "run": str(run),
        "dataset": title,
        **{key: earlier.get(key) for key in kept},
        **score_facts(predictions, test),
        "headline": recipe.data.headline,
        "notes": list(notes),
        "device": str(device),
        "precision": precision.name,
    }


def _load_other(name: str, recipe: Recipe) -> Dataset:
    data_dir = Path(recipe.data.data_dir) if recipe.data.data_dir else None
    return load_dataset(name, data_dir=data_dir, for_evaluation=True)


def _in_run_classes(dataset: Dataset, class_names: tuple[str, ...]) -> ImageSet:
    """Return the test split labelled as the run numbers its classes; names decide, never order."""
    number = {name: label for label, name in enumerate(class_names)}
    unknown = [name for name in dataset.class_names if name not in number]
    if unknown:
        raise DataError(
            f"{dataset.info.title} has classes that the run was not trained on: "
            f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}",
            hint=f"The run knows {', '.join(class_names[:10])}"
            f"{' ...' if len(class_names) > 10 else ''}",
        )
    renumbered = np.array([number[name] for name in dataset.class_names], dtype=np.int64)
    return dataset.splits["test"].renumber(renumbered)
