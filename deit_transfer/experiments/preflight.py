"""Preflight checks for commands that start many runs: one set of images, all weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deit_transfer.data.dataset import Progress
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError, DeitTransferError, UsageError
from deit_transfer.models.pretrained import PretrainedWeights, read_pretrained
from deit_transfer.recipe.schema import Recipe
from deit_transfer.recipe.search_space import search_error
from deit_transfer.training import build
from deit_transfer.training.callbacks import Callbacks
from deit_transfer.training.data_splits import DataSplits, check_readable, load_splits

GO_ON = "Run the same command again to go on; what is finished is reused"
HELD_OUT = 0.1  # the schema's own share


@dataclass(frozen=True)
class Preflight:
    """The images that all runs share, and the weights they start from."""

    splits: DataSplits
    starts: Mapping[tuple[str, str], PretrainedWeights]

    def start_of(self, recipe: Recipe) -> PretrainedWeights:
        """Return what a recipe starts from."""
        return self.starts[_start_key(recipe)]


def preflight(recipes: Mapping[str, Recipe], *, callbacks: Callbacks) -> Preflight:
    """Load the data and every start, and build every network once.

    Args:
        recipes: By what tells each apart, for messages; at least one.
        observer: Who is told of data that is fetched or unpacked.

    Raises:
        StoppedError: A signal arrived; nothing was trained yet.
        DataError: The recipes would not see the same images.
        DeitTransferError: Something does not fit; all that is wrong is listed.
    """
    with StopSignals(before_exit=callbacks.leave, hint=GO_ON) as stop:
        splits = shared_splits(recipes, stop=stop, callbacks=callbacks)
        starts = check_all(recipes, splits, stop=stop)
    return Preflight(splits, starts)


def check_all(
    recipes: Mapping[str, Recipe],
    splits: DataSplits,
    *,
    stop: StopSignals,
    known: Mapping[tuple[str, str], PretrainedWeights] | None = None,
) -> dict[tuple[str, str], PretrainedWeights]:
    """Return all pretrained weights, after every network could be built.

    `known` were read before.

    Raises:
        DeitTransferError: Something does not fit; all that is wrong is listed.
    """
    starts = dict(known or {})
    built: set[str] = set()
    faults: dict[str, DeitTransferError] = {}
    for label, recipe in recipes.items():
        stop.check()
        try:
            if _start_key(recipe) not in starts:
                start = read_pretrained(recipe.model.pretrained, model_name=recipe.model.name)
                starts[_start_key(recipe)] = start
            build.durations(recipe, num_images=len(splits.train))
            parts = (recipe.model, recipe.augment, recipe.schedule.progressive)
            if (described := repr(parts)) not in built:
                _build(recipe, splits, starts[_start_key(recipe)])
                built.add(described)
        except DeitTransferError as error:
            faults[label] = error
    _raise_all(faults, num_recipes=len(recipes))
    return starts


def with_validation(recipe: Recipe, overrides: Mapping[str, Any]) -> tuple[Recipe, str | None]:
    """Return the recipe with images held out to choose on, and a word on what was changed.

    Raises:
        UsageError: Choosing on test was asked for.
    """
    if overrides.get("data.select") == "test":
        raise UsageError(
            "a sweep chooses on validation images, never on test; data.select = 'test' "
            "cannot be asked for",
            hint="Leave data.select out; the winner's test accuracy is shown apart",
        )
    changed: dict[str, Any] = {}
    if recipe.data.select in ("test", "auto"):
        changed["select"] = "val"
    if recipe.data.val_fraction == 0 and "data.val_fraction" not in overrides:
        changed["val_fraction"] = HELD_OUT
    if not changed:
        return recipe, None
    data = recipe.data.model_copy(update=changed)
    if recipe.data.select == "auto":
        changed.pop("select")  # auto leaves it open
    listed = " and ".join(f"data.{name} = {value}" for name, value in changed.items())
    note = f"{listed}, other than in the recipe" if changed else None
    return recipe.model_copy(update={"data": data}), note


def read_pretrained_weights(
    recipes: Mapping[str, Recipe],
) -> dict[tuple[str, str], PretrainedWeights]:
    """Read every start, each once; the first that cannot be read raises its own error."""
    return {
        _start_key(recipe): read_pretrained(recipe.model.pretrained, model_name=recipe.model.name)
        for recipe in {_start_key(one): one for one in recipes.values()}.values()
    }


def _start_key(recipe: Recipe) -> tuple[str, str]:
    return recipe.model.pretrained, recipe.model.name


def shared_splits(
    recipes: Mapping[str, Recipe], *, stop: StopSignals, callbacks: Callbacks
) -> DataSplits:
    """Load the data once; every recipe's settings must describe the same images and splits.

    Raises:
        StoppedError: A signal arrived.
        DataError: The recipes would not see the same images.
    """
    loaded: dict[str, DataSplits] = {}
    first: DataSplits | None = None
    for label, recipe in recipes.items():
        settings = recipe.data.model_dump_json()
        progress = _progress(recipe.data.dataset, stop, callbacks)
        splits = loaded.get(settings) or load_splits(recipe.data, progress=progress)
        loaded[settings] = splits
        first = first or splits
        if splits.fingerprint != first.fingerprint:
            raise DataError(
                f"the runs would not see the same data: {label} has {splits.counts}, "
                f"{next(iter(recipes))} has {first.counts}",
                hint="Give all of them the same [data] section",
            )
    if first is None:
        raise ValueError("there must be at least one recipe")
    allow_bad = any(recipe.data.allow_bad for recipe in recipes.values())
    check_readable(first, allow_bad=allow_bad, progress=lambda _done, _total: stop.check())
    return first


def _progress(dataset: str, stop: StopSignals, callbacks: Callbacks) -> Progress:
    def tell(done: int, total: int) -> None:
        stop.check()
        callbacks.loading(dataset, done, total)

    return tell


def _build(recipe: Recipe, splits: DataSplits, start: PretrainedWeights) -> None:
    """Build a network, to learn now whether it can be built."""
    classifier, _ = build.network(recipe, splits.class_names, start, torch.device("cpu"))
    build.check_transforms(recipe, classifier)


def _raise_all(faults: Mapping[str, DeitTransferError], *, num_recipes: int) -> None:
    if not faults:
        return
    first = next(iter(faults.values()))
    # what is wrong with every one of them is wrong with what they share
    if len(faults) == num_recipes and len({error.message for error in faults.values()}) == 1:
        raise first
    raise search_error([f"{label}: {error.message}" for label, error in faults.items()])
