"""Choose the recipe of a command: the one named or the default, with the overrides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deit_transfer.data.catalog import check_name, published_name
from deit_transfer.errors import UsageError
from deit_transfer.models.variants import distilled_form
from deit_transfer.recipe.loader import default_recipe_name, load_recipe
from deit_transfer.recipe.schema import Mode, Recipe

COMMANDS: dict[Mode, str] = {
    "finetune": "finetune",
    "scratch": "scratch",
    "pretrain": "pretrain",
    "teacher": "teacher fit",
}
PAPER_SOFT_ALPHA = 0.1  # lambda, section 4
ADDRESS_PREFIXES = ("hf:", "wds:", "local-dir:")


def choose_recipe(
    mode: Mode,
    dataset: str,
    *,
    recipe_name: str | None = None,
    start: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return the checked recipe for a mode and dataset: the one named, or the shipped default.

    Raises:
        UsageError: The named recipe is for another mode, or the start does not fit the mode.
        DataError: The start does not fit, and there is no such folder of images either.
        RecipeError: The recipe with the overrides has faults.
    """
    name = recipe_name or default_recipe(mode, dataset)
    values: dict[str, Any] = {"data.dataset": _full_path(dataset), **(overrides or {})}
    if start is not None:
        values["model.pretrained"] = _full_path(start)
    if "distill.teacher" in values:
        values = _with_teacher(values, name)
    if "schedule.epochs" in values:
        values = _with_epochs(values, load_recipe(name))
    recipe = load_recipe(name, overrides=values)
    if recipe.mode != mode:
        raise UsageError(
            f"the recipe {name} is for '{recipe.mode}', not '{mode}'",
            hint=f"deit-transfer {COMMANDS[recipe.mode]} {dataset} --recipe {name}",
        )
    if mode == "finetune" and recipe.model.pretrained == "none":
        check_name(dataset)  # a hint that names a dataset must name one that is there
        raise UsageError(
            "fine-tuning needs weights to start from",
            hint=f"deit-transfer finetune {dataset} --from imagenet; or "
            f"deit-transfer scratch {dataset}",
        )
    if mode in ("scratch", "pretrain") and recipe.model.pretrained != "none":
        check_name(dataset)
        raise UsageError(
            f"{mode} trains from scratch, not from '{recipe.model.pretrained}'",
            hint=f"deit-transfer finetune {dataset} --from {recipe.model.pretrained}",
        )
    return recipe


def default_recipe(mode: Mode, dataset: str) -> str:
    """Return the shipped recipe's name for a dataset, also where it comes from the hub."""
    return default_recipe_name(mode, published_name(dataset))


def _with_epochs(values: dict[str, Any], base: Recipe) -> dict[str, Any]:
    """Apply --epochs: no minimum of steps, and a warm-up of the same share of the run."""
    epochs = values["schedule.epochs"]
    shorter = isinstance(epochs, int) and 0 < epochs < base.schedule.epochs
    share = epochs / base.schedule.epochs if shorter else 1.0
    warmup_epochs = base.schedule.warmup_epochs * share
    return {"schedule.min_steps": 0, "schedule.warmup_epochs": warmup_epochs, **values}


def _with_teacher(values: dict[str, Any], recipe_name: str) -> dict[str, Any]:
    """Complete what a teacher implies: hard distillation, and the model's distilled form.

    A model that was named, by flag or in a recipe that is distilled already, is left alone.
    """
    completed = {"distill.kind": "hard", **values}
    completed["distill.teacher"] = _full_path(str(values["distill.teacher"]))
    if completed["distill.kind"] == "soft":
        completed = {"distill.alpha": PAPER_SOFT_ALPHA, **completed}
    through_class = values.get("distill.through") == "class"
    if "model.name" not in values and not through_class:
        own = load_recipe(recipe_name).model.name
        completed["model.name"] = own if "distilled" in own else distilled_form(own)
    return completed


def _full_path(name: str) -> str:
    """Return an existing path in full, also behind `hf:` or `wds:`, to repeat it from anywhere."""
    prefix = next((start for start in ADDRESS_PREFIXES if name.startswith(start)), "")
    path = Path(name.removeprefix(prefix)).expanduser()
    looks_like_path = path.exists() and (path.is_dir() or path.is_file())
    return f"{prefix}{path.resolve()}" if looks_like_path else name
