"""Sweep over settings or recipes on the same images, chosen on validation."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deit_transfer.data.dataset import ImageSet
from deit_transfer.engine.distributed import World
from deit_transfer.errors import RecipeError, UsageError
from deit_transfer.experiments.optuna_study import Pruner, check_installed
from deit_transfer.experiments.preflight import Preflight, preflight, with_validation
from deit_transfer.experiments.sweep_trials import (
    By,
    Candidate,
    Sweep,
    make_candidates,
    search,
    write_sweep,
)
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Mode, Recipe
from deit_transfer.recipe.search_space import (
    Point,
    describe_point,
    grid_points,
    match_recipes,
    read_space,
    search_error,
)
from deit_transfer.runs.folder import (
    SWEEP_FILE,
    RunFolder,
    create_numbered_folder,
    create_run_folder,
)
from deit_transfer.runs.key import run_key
from deit_transfer.training.callbacks import Callbacks, NoCallbacks
from deit_transfer.training.choose_recipe import choose_recipe
from deit_transfer.training.resume import watch_status

SWEEPS = "sweeps"
DEFAULT_RECIPE = "default"


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What is searched, and from where.

    Args:
        mode: What each trial does.
        grids: Settings with their values, `section.key=a,b,c`.
        ranges: Settings with a range, `section.key=low..high[:log]`; only with `trials`.
        trials: Trials in all, those of earlier calls counted in; None for the whole grid.
        pruner: How Optuna gives up on trials.
        start: What fine-tuning starts from.
        recipe_name: Recipe of all trials; the default one where not given.
        overrides: Settings of all trials, by dotted location.
    """

    mode: Mode
    grids: Sequence[str] = ()
    ranges: Sequence[str] = ()
    trials: int | None = None
    pruner: Pruner = "median"
    start: str | None = None
    recipe_name: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


def sweep(
    dataset: str,
    settings: SweepSettings,
    *,
    out: Path,
    name: str | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Train every combination of settings, or as many as Optuna may ask for; choose on validation.

    Args:
        dataset: Catalog name or folder.
        settings: What is searched.
        out: Folder that holds the runs.
        name: Folder of the sweep below `out`; None finds the one of this search, or makes one.
        callbacks: What is shown while it trains.

    Returns:
        The sweep object, as it stands in `sweep.json`.

    Raises:
        RecipeError: The search has faults; all are listed, and nothing was trained.
        UsageError: The name is taken by something else, or Optuna is missing.
    """
    callbacks = callbacks or NoCallbacks()
    overrides, trials, pruner = settings.overrides, settings.trials, settings.pruner
    if trials is not None:
        check_installed()
    dimensions, faults = read_space(settings.grids, settings.ranges, given=overrides)
    faults += _plan_faults(settings.grids, settings.ranges, trials)
    labels: list[str] = []

    def recipe_at(point: Point) -> Recipe:
        chosen = choose_recipe(
            settings.mode,
            dataset,
            recipe_name=settings.recipe_name,
            start=settings.start,
            overrides={**overrides, **point},
        )
        return _choosing_on_val(chosen, overrides, labels)

    # all that can be wrong is found before anything is trained
    labeled = {describe_point(point): point for point in grid_points(dimensions)}
    makers = {label: partial(recipe_at, point) for label, point in labeled.items()}
    recipes = _collect(makers, faults)
    candidates = [
        Candidate(trial=place, settings=labeled[label], recipe=recipe)
        for place, (label, recipe) in enumerate(recipes.items(), start=1)
    ]
    ready = preflight({one.label: one.recipe for one in candidates}, callbacks=callbacks)
    by: By = "grid" if trials is None else "trials"
    rules = [repr(one) for one in dimensions] + ([pruner] if trials is not None else [])
    under_way = _begin(
        by,
        candidates,
        ready,
        varied=[one.location for one in dimensions],
        rules=rules,
        out=out,
        name=name,
        labels=labels,
        callbacks=callbacks,
    )
    with watch_status(under_way.folder, World()):
        if trials is None:
            make_candidates(under_way, candidates)
        else:
            search(under_way, dimensions, recipe_at, trials=trials, pruner=pruner)
        return write_sweep(under_way)


def sweep_recipes(
    dataset: str | None,
    *,
    recipe_names: Sequence[str],
    out: Path,
    start: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    name: str | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Train each recipe on the same images, and show how far each is from the default one.

    Args:
        dataset: Catalog name or folder; None takes the recipes' own.
        recipe_names: Names, files and patterns such as `ablation/*`. The one called `default`,
            or the first, is what the others are compared with.
        out: Folder that holds the runs.
        start: What the recipes that fine-tune start from.
        overrides: Settings of all recipes, by dotted location.
        name: Folder of the sweep below `out`; None finds the one of these recipes, or makes one.
        observer: Who is told what happens.

    Raises:
        RecipeError: Recipes or settings have faults; all are listed, and nothing was trained.
        UsageError: The name is taken by something else.
    """
    callbacks, overrides = callbacks or NoCallbacks(), overrides or {}
    names = match_recipes(recipe_names)
    names.sort(key=lambda one: Path(one).stem != DEFAULT_RECIPE)
    labels: list[str] = []

    def recipe_of(recipe_name: str) -> Recipe:
        own = load_recipe(recipe_name)
        chosen = choose_recipe(
            own.mode,
            dataset or own.data.dataset,
            recipe_name=recipe_name,
            start=start if own.mode in ("finetune", "teacher") else None,
            overrides=overrides,
        )
        return _choosing_on_val(chosen, overrides, labels)

    recipes = _collect({one: partial(recipe_of, one) for one in names})
    short = _short_names(names)
    candidates = [
        Candidate(trial=place, settings={}, recipe=recipe, name=short[one])
        for place, (one, recipe) in enumerate(recipes.items(), start=1)
    ]
    ready = preflight({one.label: one.recipe for one in candidates}, callbacks=callbacks)
    under_way = _begin(
        "recipes", candidates, ready, out=out, name=name, labels=labels, callbacks=callbacks
    )
    with watch_status(under_way.folder, World()):
        make_candidates(under_way, candidates)
        return write_sweep(under_way)


def _begin(
    by: By,
    candidates: Sequence[Candidate],
    ready: Preflight,
    *,
    out: Path,
    name: str | None,
    labels: Sequence[str],
    callbacks: Callbacks,
    varied: Sequence[str] = (),
    rules: Sequence[str] = (),
) -> Sweep:
    """Return the sweep of these candidates, in the folder that holds it already or a new one."""
    key = _key(by, candidates, ready, rules)
    val = _held_out(ready)
    first = candidates[0].recipe
    return Sweep(
        by=by,
        varied=varied,
        first=first,
        ready=ready,
        val=val,
        folder=_claim(out, name, key, ready, first),
        out=out,
        key=key,
        labels=labels,
        callbacks=callbacks,
    )


def _choosing_on_val(recipe: Recipe, overrides: Mapping[str, Any], labels: list[str]) -> Recipe:
    """Return the recipe with images to choose on; what was changed for it joins the labels."""
    recipe, label = with_validation(recipe, overrides)
    if label is not None and label not in labels:
        labels.append(label)
    return recipe


def _plan_faults(grids: Sequence[str], ranges: Sequence[str], trials: int | None) -> list[str]:
    if not grids and not ranges:
        return ["--grid: nothing is varied; name at least one setting"]
    if trials is None and ranges:
        return ["--space: a range needs --trials, which says how many are drawn of it"]
    return []


def _collect(
    makers: Mapping[str, Callable[[], Recipe]], known_faults: Sequence[str] = ()
) -> dict[str, Recipe]:
    """Return every recipe by its label, or raise with all faults, those known before first."""
    recipes: dict[str, Recipe] = {}
    faults: dict[str, None] = dict.fromkeys(known_faults)
    for label, make in makers.items():
        try:
            recipes[label] = make()
        except RecipeError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise search_error(list(faults))
    return recipes


def _short_names(names: Sequence[str]) -> dict[str, str]:
    stems = [Path(name).stem for name in names]
    return {
        name: stem if stems.count(stem) == 1 else name
        for name, stem in zip(names, stems, strict=True)
    }


def _key(by: By, candidates: Sequence[Candidate], ready: Preflight, rules: Sequence[str]) -> str:
    """Return what names a search; more trials of the same one are the same search."""
    keys = [
        run_key(one.recipe, ready.splits.fingerprint, ready.start_of(one.recipe))
        for one in candidates
    ]
    return hashlib.sha256(json.dumps([by, keys, list(rules)]).encode()).hexdigest()


def _held_out(ready: Preflight) -> ImageSet:
    if ready.splits.val is None:
        raise UsageError(
            "a sweep chooses on validation images, and data.val_fraction = 0 holds none out",
            hint="Leave data.val_fraction out, or give another share: --set data.val_fraction=0.1",
        )
    return ready.splits.val


def _claim(out: Path, name: str | None, key: str, ready: Preflight, recipe: Recipe) -> RunFolder:
    """Return the folder of this search: the one that holds it already, or a new one."""
    if name is None:
        for path in sorted((out / SWEEPS).glob(f"*/{SWEEP_FILE}")):
            folder = RunFolder(path.parent)
            if folder.read_json(SWEEP_FILE).get("key") == key:
                return folder
        title = f"{ready.splits.name}-{recipe.mode}-{recipe.model.name}"
        folder = create_numbered_folder(out / SWEEPS, title)
    elif (out / name).exists():
        folder = RunFolder(out / name)
        if folder.read_json(SWEEP_FILE).get("key") != key:
            raise UsageError(
                f"{folder} exists already, and is not this sweep: another one, or one whose "
                "settings, images or weights were others",
                hint="Give the new sweep another --name",
            )
        return folder
    else:
        folder = create_run_folder(out, name)
    folder.write_json(SWEEP_FILE, {"key": key})
    return folder
