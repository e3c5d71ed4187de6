"""Choose the recipe of a command: the one named or the default, with the overrides."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from deit_transfer.data.catalog import check_name, published_name
from deit_transfer.errors import CheckpointError, UsageError
from deit_transfer.models.variants import VARIANTS, distilled_form, find_variant
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
    tell: Callable[[str], None] | None = None,
) -> Recipe:
    """Return the checked recipe for a mode and dataset: the one named, or the shipped default.

    Where neither a recipe nor a model is named, fine-tuning takes the network that the weights
    are of, if the default recipe's has another size; `tell` is called with a sentence about it.

    Raises:
        UsageError: The named recipe is for another mode, or the start does not fit the mode.
        DataError: The start does not fit, and there is no such folder of images either.
        RecipeError: The recipe with the overrides has faults.
    """
    name = recipe_name or default_recipe(mode, dataset)
    values: dict[str, Any] = {"data.dataset": _full_path(dataset), **(overrides or {})}
    if start is not None:
        values["model.pretrained"] = _full_path(start)
    own = load_recipe(name).model.name
    if mode == "finetune" and recipe_name is None and start and "model.name" not in values:
        fitted = model_of_weights(start, like=own)
        if fitted != own:
            own = values["model.name"] = fitted
            if tell is not None:
                tell(
                    f"the weights {start} are of {fitted}, which is trained; --model names another"
                )
    if "distill.teacher" in values:
        values = _with_teacher(values, own, named="model.name" in (overrides or {}))
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


def _with_teacher(values: dict[str, Any], own: str, *, named: bool) -> dict[str, Any]:
    """Complete what a teacher implies: hard distillation, and the model's distilled form.

    A model that was named, by flag or in a recipe that is distilled already, is left alone.

    Args:
        values: The overrides.
        own: The model that the recipe or the weights bring.
        named: Whether a flag names the model.
    """
    completed = {"distill.kind": "hard", **values}
    completed["distill.teacher"] = _full_path(str(values["distill.teacher"]))
    if completed["distill.kind"] == "soft":
        completed = {"distill.alpha": PAPER_SOFT_ALPHA, **completed}
    through_class = values.get("distill.through") == "class"
    if not named and not through_class:
        completed["model.name"] = own if "distilled" in own else distilled_form(own)
    return completed


def model_of_weights(start: str, *, like: str) -> str:
    """Return the network to train from weights: `like`, unless they are of another size.

    A distilled network's weights bring the plain network, as they do where `like` fits: a
    teacher is what asks for the distilled one.

    Args:
        start: As `--from` takes it; only a file or folder that is there is looked into.
        like: The network that would be trained otherwise.
    """
    path = Path(start.removeprefix("local-dir:")).expanduser()
    if not path.exists():
        return like
    found = _model_of(str(path.resolve()), path.stat().st_mtime_ns)
    if found is None or _size(found) == _size(like):
        return like
    return found.replace("_distilled", "") if found in VARIANTS else found


@lru_cache(maxsize=8)
def _model_of(path: str, _changed_ns: int) -> str | None:
    """Return the network that a file or folder is of; None where nothing says so."""
    from deit_transfer.models.checkpoint_adaptation import fitting_model
    from deit_transfer.models.pretrained import read_pretrained

    try:
        name = fitting_model(read_pretrained(path, model_name=""))
        find_variant(name)
    except (CheckpointError, UsageError):
        return None  # said where the weights are read to be trained
    return name


def _size(name: str) -> tuple[int | None, ...] | str:
    """Return what tells the sizes of DeiTs apart; the name of any other network."""
    variant = VARIANTS.get(name)
    if variant is None or not variant.is_deit:
        return name
    return variant.embed_dim, variant.depth, variant.patch_size


def _full_path(name: str) -> str:
    """Return an existing path in full, also behind `hf:` or `wds:`, to repeat it from anywhere."""
    prefix = next((start for start in ADDRESS_PREFIXES if name.startswith(start)), "")
    path = Path(name.removeprefix(prefix)).expanduser()
    looks_like_path = path.exists() and (path.is_dir() or path.is_file())
    return f"{prefix}{path.resolve()}" if looks_like_path else name
