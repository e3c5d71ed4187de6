"""The arms of a comparison: what is compared side by side, each a name and a recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from deit_transfer.errors import UsageError, did_you_mean
from deit_transfer.experiments.train_or_reuse import with_teacher, without_teacher
from deit_transfer.recipe.loader import list_recipes, load_recipe
from deit_transfer.recipe.schema import Data, Mode, Recipe
from deit_transfer.training import build
from deit_transfer.training.choose_recipe import choose_recipe, default_recipe, model_of_weights

Budget = Literal["recipe", "equal-images"]

SCRATCH, FINETUNE, DISTILLED, PROBE = "scratch", "finetune", "distilled", "probe"
# the mode of each named arm; the probe takes data, network and start of the fine-tuned one
MODES: dict[str, Mode] = {
    SCRATCH: "scratch",
    FINETUNE: "finetune",
    DISTILLED: "finetune",
    PROBE: "finetune",
}
# only these decide which images an arm sees, and which epoch it keeps
SPLIT_SETTINGS = ("train_on", "val_fraction", "val_limit", "select", "split_seed", "classes")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm: its name and the recipe it trains; `notes` lists what was changed in it."""

    name: str
    recipe: Recipe
    notes: tuple[str, ...] = ()

    @property
    def is_probe(self) -> bool:
        """Whether nothing is trained: only frozen features are read."""
        return self.name == PROBE

    def with_recipe(self, **sections: Any) -> "Arm":
        """Return the arm with other sections of its recipe."""
        return replace(self, recipe=self.recipe.model_copy(update=sections))


def check_arm_names(names: Sequence[str], *, taught: bool) -> tuple[str, ...]:
    """Return the names of the arms in order: those asked for, or the usual ones.

    Args:
        names: scratch, finetune, distilled, probe, and recipes by name or file; none takes the
            usual ones.
        taught: Whether a teacher was named.

    Raises:
        UsageError: A name is unknown or given twice, or a teacher is missing or has no student.
    """
    if not names:
        return (SCRATCH, FINETUNE, DISTILLED) if taught else (SCRATCH, FINETUNE)
    known = [*MODES, *list_recipes()]
    for name in names:
        if name not in known and not name.endswith(".toml"):
            suggestion = did_you_mean(name, known)
            raise UsageError(
                f"there is no arm and no recipe '{name}'. {suggestion}".strip(),
                hint=f"Arms: {', '.join(MODES)}, or any recipe of `deit-transfer recipes list`",
            )
        if names.count(name) > 1:
            raise UsageError(f"the arm {name} is given twice", hint="Name each arm once")
    students = [name for name in names if name == DISTILLED or _distills(name)]
    if taught and not students:
        raise UsageError(
            f"no arm learns from the teacher: the arms are {', '.join(names)}",
            hint=f"Add the arm {DISTILLED} to --arms, or leave --teacher out",
        )
    if not taught and DISTILLED in names:
        raise UsageError(
            f"the arm {DISTILLED} needs a teacher",
            hint="Name one with --teacher: a run, or a network such as regnety_160",
        )
    return tuple(names)


def choose_arms(
    names: Sequence[str],
    dataset: str,
    *,
    start: str,
    recipe_names: Mapping[str, str],
    overrides: Mapping[str, Any],
) -> list[Arm]:
    """Return the arms with their checked recipes.

    An arm that is a recipe keeps all of it but the splits: those of a comparison are the same for
    all arms, the ones of the dataset's own recipes.

    Raises:
        UsageError: A recipe does not fit its arm.
        RecipeError: A recipe with the overrides has faults.
    """
    plain = [name for name in names if name in MODES]
    settled: dict[str, Recipe] = {}
    for name in plain or [FINETUNE]:
        settings = _settings(name, overrides)
        if name == SCRATCH and SCRATCH not in recipe_names and "model.name" not in settings:
            # the same network as in the arms that start from the weights
            own = load_recipe(default_recipe(MODES[name], dataset)).model.name
            if (fitted := model_of_weights(start, like=own)) != own:
                settings["model.name"] = fitted
        settled[name] = choose_recipe(
            MODES[name],
            dataset,
            recipe_name=recipe_names.get(name),
            start=start if MODES[name] == "finetune" else None,
            overrides=settings,
        )
    data = next(iter(settled.values())).data
    return [
        Arm(name=name, recipe=settled[name])
        if name in MODES
        else _recipe_arm(name, dataset, start=start, overrides=overrides, data=data)
        for name in names
    ]


def with_equal_images(arms: Sequence[Arm], num_images: int) -> list[Arm]:
    """Return the arms, each to see as many images as the fine-tuned one (the first without one).

    Raises:
        UsageError: A time budget would decide the length as well.
    """
    if any(arm.recipe.run.time_budget_minutes is not None for arm in arms):
        raise UsageError(
            "--budget equal-images and --time-budget contradict each other",
            hint="Leave one of them out; --epochs shortens all arms",
        )
    trained = [arm for arm in arms if not arm.is_probe]
    if not trained:
        return list(arms)
    measure = next((arm for arm in trained if arm.name == FINETUNE), trained[0])
    images = build.durations(measure.recipe, num_images=num_images).images_to_see
    return [
        arm if arm.is_probe or arm is measure else _with_images(arm, images, num_images=num_images)
        for arm in arms
    ]


def _with_images(arm: Arm, images: int, *, num_images: int) -> Arm:
    """Return the arm with its schedule stretched or cut to see this many images.

    The warm-up and the stages of resolution keep their shares of the run. Where `images` makes
    no whole epochs, the last step's batch may overshoot.
    """
    plan = build.durations(arm.recipe, num_images=num_images)
    whole_epochs, rest = divmod(images, plan.images_per_epoch)
    steps = whole_epochs * plan.steps_per_epoch + math.ceil(rest / plan.batch_size)
    length = {"min_steps": steps, "max_steps": steps}
    return arm.with_recipe(schedule=arm.recipe.schedule.model_copy(update=length))


def _distills(name: str) -> bool:
    return name not in MODES and load_recipe(name).distill.kind != "none"


def _settings(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    taught = name == DISTILLED or _distills(name)
    return with_teacher(overrides) if taught else without_teacher(overrides)


def _recipe_arm(
    name: str, dataset: str, *, start: str, overrides: Mapping[str, Any], data: Data
) -> Arm:
    mode = load_recipe(name).mode
    recipe = choose_recipe(
        mode,
        dataset,
        recipe_name=name,
        start=start if mode == "finetune" else None,
        overrides=_settings(name, overrides),
    )
    changes = [
        f"{key} {getattr(recipe.data, key)!r} is {getattr(data, key)!r} here"
        for key in SPLIT_SETTINGS
        if getattr(recipe.data, key) != getattr(data, key)
    ]
    note = f"{name}: the splits are the comparison's, not the recipe's: {', '.join(changes)}"
    arm = Arm(name=name, recipe=recipe, notes=(note,) if changes else ())
    return arm.with_recipe(data=data)
