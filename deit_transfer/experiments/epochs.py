"""Accuracy against epochs, with and without a teacher (Figure 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from deit_transfer.analysis.comparison import ArmRuns, build_comparison
from deit_transfer.analysis.epochs_gain import gain
from deit_transfer.errors import RecipeError
from deit_transfer.experiments.preflight import Preflight, preflight
from deit_transfer.experiments.train_or_reuse import (
    TrainedRun,
    test_predictions,
    train_or_reuse,
    with_seed,
    with_teacher,
    without_teacher,
)
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Mode, Recipe
from deit_transfer.recipe.search_space import search_error
from deit_transfer.report.epochs_report import epochs_markdown, epochs_png
from deit_transfer.report.number_format import counted
from deit_transfer.runs.environment import command_line
from deit_transfer.runs.folder import EPOCHS_FILE, RunFolder, folder_of_runs, refuse_taken_name
from deit_transfer.training.callbacks import Callbacks, NoCallbacks
from deit_transfer.training.choose_recipe import choose_recipe
from deit_transfer.training.data_splits import DataSplits

FIGURE_FILE = "epochs.png"
REPORT_FILE = "epochs.md"
FOLDERS = "epochs"
PLAIN, DISTILLED = "plain", "distilled"


@dataclass(frozen=True)
class EpochsCell:
    """The runs of one arm at one length, one per seed."""

    arm: str
    epochs: int
    recipe: Recipe
    runs: list[TrainedRun]


def epochs(
    dataset: str,
    *,
    lengths: Sequence[int],
    seeds: int,
    out: Path,
    start: str | None = None,
    recipe_name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    name: str | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Train at several lengths, each with its own schedule, and return accuracy by length.

    Args:
        dataset: Catalog name or folder.
        lengths: Epochs of each training, at least one, each once.
        seeds: Runs per length and arm, with the seeds from the recipe's on.
        out: Folder that holds the runs.
        start: What is fine-tuned; None trains from scratch.
        recipe_name: Recipe of all runs; the default one where not given.
        overrides: Settings of all runs, by dotted location; those of a teacher are for a second
            arm, `distilled`, alone.
        name: Folder of the figure below `out`; None finds that of the same runs, or makes one.
        observer: Who is told what happens.

    Raises:
        RecipeError: A length cannot be trained; all faults are listed, and nothing was trained.
        UsageError: The name is taken.
    """
    refuse_taken_name(out, name, what="figure")
    cells = _cells(
        dataset,
        lengths=sorted(lengths),
        start=start,
        recipe_name=recipe_name,
        overrides=overrides or {},
    )
    # all that can be wrong is found before anything is trained
    callbacks = callbacks or NoCallbacks()
    named = {f"{cell.arm}, {counted(cell.epochs, 'epoch')}": cell.recipe for cell in cells}
    ready = preflight(named, callbacks=callbacks)
    first_seed = cells[0].recipe.run.seed
    all_seeds = range(first_seed, first_seed + seeds)
    _train(cells, all_seeds, ready, out=out, callbacks=callbacks)
    found = _outcome(cells, all_seeds, ready.splits)
    automatic = f"{FOLDERS}/{found['dataset']}-{found['mode']}-{found['model']}"
    folder = folder_of_runs(found, out, name, automatic=automatic, file=EPOCHS_FILE)
    return _write(folder, found)


def _cells(
    dataset: str,
    *,
    lengths: Sequence[int],
    start: str | None,
    recipe_name: str | None,
    overrides: Mapping[str, Any],
) -> list[EpochsCell]:
    """Return every arm at every length, the shortest first: a first answer comes soon."""
    taught = any(key.startswith("distill.") for key in overrides)
    arms = {PLAIN: without_teacher(overrides)}
    if taught:
        arms[DISTILLED] = with_teacher(overrides)
    cells: list[EpochsCell] = []
    faults: dict[str, None] = {}
    for length in lengths:
        for arm, settings in arms.items():
            try:
                recipe = choose_recipe(
                    _mode(start, recipe_name),
                    dataset,
                    recipe_name=recipe_name,
                    start=start,
                    overrides={**settings, "schedule.epochs": length},
                )
            except RecipeError as error:
                faults |= {
                    f"{fault} ({counted(length, 'epoch')}, {arm})": None for fault in error.faults
                }
            else:
                cells.append(EpochsCell(arm, length, recipe, []))
    if faults:
        raise search_error(list(faults))
    return cells


def _mode(start: str | None, recipe_name: str | None) -> Mode:
    if start is not None:
        return "finetune"
    return load_recipe(recipe_name).mode if recipe_name is not None else "scratch"


def _train(
    cells: Sequence[EpochsCell],
    seeds: Sequence[int],
    ready: Preflight,
    *,
    out: Path,
    callbacks: Callbacks,
) -> None:
    total = len(cells) * len(seeds)
    order = sorted(
        ((cell, seed) for cell in cells for seed in seeds), key=lambda one: one[0].epochs
    )
    for place, (cell, seed) in enumerate(order, start=1):
        length = counted(cell.epochs, "epoch")
        callbacks.note(f"\nrun {place} of {total}: {cell.arm}, {length}, seed {seed}")
        recipe = with_seed(cell.recipe, seed)
        start = ready.start_of(recipe)
        cell.runs.append(train_or_reuse(recipe, start, ready.splits, out=out, callbacks=callbacks))


def _outcome(
    cells: Sequence[EpochsCell], seeds: Sequence[int], splits: DataSplits
) -> dict[str, Any]:
    lengths = sorted({cell.epochs for cell in cells})
    plain, last = cells[0].recipe, cells[-1].recipe
    teaches = last.distill.teacher is not None
    points = [_point([cell for cell in cells if cell.epochs == n], splits) for n in lengths]
    labels = [label for point in points for label in point.pop("labels")]
    return {
        "dataset": splits.name,
        "mode": plain.mode,
        "model": plain.model.name,
        "distilled_model": last.model.name if teaches else None,
        "pretrained": plain.model.pretrained,
        "teacher": last.distill.teacher,
        "teacher_top1": cells[-1].runs[0].result.get("teacher_top1") if teaches else None,
        "seeds": list(seeds),
        "lengths": lengths,
        "points": points,
        "gains": _gains(cells, splits),
        "num_test_images": len(splits.test),
        "counts": splits.counts,
        "data_fingerprint": splits.fingerprint,
        "labels": list(dict.fromkeys(labels)),
    }


def _point(cells: Sequence[EpochsCell], splits: DataSplits) -> dict[str, Any]:
    """Return one length: its arms with their intervals, and the difference that a teacher makes."""
    recipe = cells[0].recipe
    compared = build_comparison(
        arms=[
            ArmRuns(
                arm=cell.arm,
                results=[run.result for run in cell.runs],
                correct=[test_predictions(run.folder, splits) for run in cell.runs],
                reused=sum(run.reused for run in cell.runs),
            )
            for cell in cells
        ],
        dataset=splits.name,
        model=recipe.model.name,
        start=recipe.model.pretrained,
        budget="recipe",
    )
    kept = ("arms", "differences", "labels")
    return {"epochs": cells[0].epochs} | {key: compared[key] for key in kept}


def _gains(cells: Sequence[EpochsCell], splits: DataSplits) -> list[dict[str, Any]]:
    """Return what each step to the next length gained, by arm."""
    gains = []
    for arm in dict.fromkeys(cell.arm for cell in cells):
        own = [cell for cell in cells if cell.arm == arm]
        for shorter, longer in pairwise(own):
            found = gain(
                [run.result["top1"] for run in longer.runs],
                [run.result["top1"] for run in shorter.runs],
                correct_longer=test_predictions(longer.runs[0].folder, splits),
                correct_shorter=test_predictions(shorter.runs[0].folder, splits),
            )
            gains.append({"arm": arm, "from": shorter.epochs, "to": longer.epochs} | found)
    return gains


def _write(folder: RunFolder, found: Mapping[str, Any]) -> dict[str, Any]:
    placed = {**found, "folder": str(folder), "figure": str(folder.path / FIGURE_FILE)}
    epochs_png(folder.path / FIGURE_FILE, placed)
    folder.write_json(EPOCHS_FILE, placed)
    folder.write_text(
        REPORT_FILE, epochs_markdown(placed, command=command_line(), figure=FIGURE_FILE)
    )
    return placed
