"""Acquire a run folder: create a new one, or find the one to resume."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from deit_transfer.engine.distributed import World
from deit_transfer.errors import ResourceError, StoppedError, UsageError
from deit_transfer.recipe.durations import Durations
from deit_transfer.recipe.loader import differing_values, dump_recipe, load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.environment import describe_environment
from deit_transfer.runs.folder import (
    CLASSES_FILE,
    DATA_FILE,
    ENVIRONMENT_FILE,
    KEY_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    RunFolder,
    create_named_folder,
    open_run,
    taken,
)
from deit_transfer.runs.key import PLACE_SETTINGS, find_by_key
from deit_transfer.training.data_splits import DataSplits
from deit_transfer.training.setup import FrozenSettings, RunSetup

FROZEN_SETTINGS_FILE = "frozen_settings.json"
LOAD_REPORT_FILE = "load_report.json"


def find_earlier_run(
    out: Path, name: str | None, recipe: Recipe, *, key: str, resume: bool, world: World
) -> RunFolder | None:
    """Return the run to resume, the same in all ranks; None where a new one is to start.

    Raises:
        UsageError: The name is taken: by another run, or by this one and `resume` is False.
    """
    found = _find_earlier(out, name, recipe, key, resume) if world.is_main else None
    path = world.broadcast(str(found) if found is not None else "")
    return RunFolder(Path(path)) if path else None


def start_run_folder(
    out: Path, name: str | None, recipe: Recipe, *, key: str, world: World
) -> RunFolder:
    """Make a new run folder, the same in all ranks; races for a name have one winner.

    Raises:
        UsageError: The name is taken.
        ResourceError: The folder cannot be written.
    """
    folder = _start(out, name, recipe, key) if world.is_main else None
    return RunFolder(Path(world.broadcast(str(folder))))


@contextmanager
def watch_status(folder: RunFolder, world: World) -> Iterator[None]:
    """Lock the run folder and keep its status file up to date, however the run ends."""
    if not world.is_main:
        yield
        return
    with folder.lock():
        folder.set_status("running")
        folder.log(f"process {os.getpid()} works on the run")
        try:
            yield
        except StoppedError as stopped:
            _note_end(folder, "stopped", stopped.message, stopped.message)
            raise
        except BaseException as error:
            text = str(error) or type(error).__name__
            _note_end(folder, "failed", text, f"failed: {error!r}\n{traceback.format_exc()}")
            raise
        folder.set_status("done")
        folder.log("done")


def record_setup(folder: RunFolder, setup: RunSetup) -> None:
    """Write the frozen settings, the class names, the data and the load report."""
    if not setup.world.is_main:
        return
    splits, report = setup.splits, setup.load_report
    frozen = FrozenSettings(durations=setup.durations, attention=setup.attention)
    folder.write_json(FROZEN_SETTINGS_FILE, asdict(frozen))
    record_data(folder, splits)
    origin = {"pretrained": setup.recipe.model.pretrained, "origin": setup.start.origin}
    folder.write_json(LOAD_REPORT_FILE, origin | (report.to_dict() if report is not None else {}))


def record_data(folder: RunFolder, splits: DataSplits) -> None:
    """Write down a run's classes, in label order, and which images it saw."""
    folder.write_json(CLASSES_FILE, {"class_names": list(splits.class_names)})
    folder.write_json(
        DATA_FILE,
        {
            "dataset": splits.name,
            "layout": splits.dataset.layout,
            "root": str(splits.dataset.root) if splits.dataset.root is not None else None,
            "notes": list(splits.dataset.notes),
            "gray_white": splits.train.gray_white,
            "counts": splits.counts,
            "fingerprint": splits.fingerprint,
            "label_fingerprint": splits.label_fingerprint,
        },
    )


def read_frozen_settings(folder: RunFolder) -> FrozenSettings | None:
    """Return what was decided when a run first started; None for a run that has not."""
    stored = folder.read_json(FROZEN_SETTINGS_FILE)
    if not stored:
        return None
    return FrozenSettings(durations=Durations(**stored["durations"]), attention=stored["attention"])


def _note_end(folder: RunFolder, state: str, detail: str, line: str) -> None:
    # where nothing can be written, the error that is on its way says why
    with suppress(OSError, ResourceError):
        folder.set_status(state, detail)
        folder.log(line)


def _start(out: Path, name: str | None, recipe: Recipe, key: str) -> RunFolder:
    dataset = Path(recipe.data.dataset).name
    automatic = f"{dataset}/{recipe.mode}-{recipe.model.name}-seed{recipe.run.seed}"
    folder = create_named_folder(out, name, automatic=automatic)
    _begin(folder, recipe, key)
    return folder


def _begin(folder: RunFolder, recipe: Recipe, key: str) -> None:
    folder.write_json(KEY_FILE, {"key": key})
    folder.write_json(ENVIRONMENT_FILE, describe_environment())
    # last: a folder that has a recipe is a run
    folder.write_text(RECIPE_FILE, dump_recipe(recipe))


def _find_earlier(
    out: Path, name: str | None, recipe: Recipe, key: str, resume: bool
) -> RunFolder | None:
    """Return the run to resume: the one of that name, or an unfinished one with that key."""
    if name is None:
        if not resume:
            return None
        return find_by_key(out, key, finished=False) or find_by_key(out, key, finished=True)
    folder = RunFolder(out / name)
    if not folder.path.exists():
        return None
    if not resume or not (folder.is_run or folder.was_cut_off_at_birth):
        raise taken(folder)
    if not folder.is_run:
        _begin(folder, recipe, key)
    open_run(folder.path)
    if folder.read_json(KEY_FILE).get("key") != key:
        raise _another_run(folder, recipe)
    return folder


def _another_run(folder: RunFolder, recipe: Recipe) -> UsageError:
    """Return the error that a run of this name is not the one that is asked for."""
    before = load_recipe(str(folder.path / RECIPE_FILE))
    settings = differing_values(before, recipe).keys() - PLACE_SETTINGS
    longer = bool(settings) and all(key.startswith("schedule.") for key in settings)
    if longer and folder.read_json(RESULT_FILE):
        return UsageError(
            f"{folder} is finished, and its learning rate has come to its end: it cannot be made "
            f"longer ({_changes(before, recipe)})",
            hint="Train on from its weights as a new run: deit-transfer finetune "
            f"{recipe.data.dataset} --from {folder} --epochs {recipe.schedule.epochs}",
        )
    return UsageError(
        f"{folder} was started with another recipe, other data or other weights: "
        f"{_changes(before, recipe)}",
        hint="Repeat the settings it was started with, or give the new run another --name",
    )


def _changes(before: Recipe, now: Recipe) -> str:
    changes = {
        key: values
        for key, values in differing_values(before, now).items()
        if key not in PLACE_SETTINGS
    }
    listed = ", ".join(f"{key} was {a} and is {b}" for key, (a, b) in changes.items())
    return listed or "the images, their labels or the weights have changed"
