"""Find, merge and check recipes.

Precedence is one sentence: schema default < recipe (and what it extends) < flags and `--set`.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from deit_transfer.errors import RecipeError, UsageError, did_you_mean
from deit_transfer.recipe.checks import cross_faults
from deit_transfer.recipe.schema import Recipe

Values = dict[str, Any]

FALLBACK_DATASET = "folder"
MAX_RECIPE_BYTES = 256 * 1024
OTHER_FORMATS = (".yaml", ".yml", ".json", ".py")


def recipes_root() -> Path:
    """Return the folder of shipped recipes: in the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "recipes"
    return shipped if shipped.is_dir() else package.parent / "recipes"


def list_recipes() -> list[str]:
    """Return the names of all shipped recipes, such as `finetune/cifar10`, sorted."""
    root = recipes_root()
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.toml"))


def default_recipe_name(mode: str, dataset: str) -> str:
    """Return the shipped recipe for a mode and dataset, or that of any folder of images."""
    name = f"{mode}/{dataset}"
    return name if name in list_recipes() else f"{mode}/{FALLBACK_DATASET}"


def load_recipe(name_or_path: str, *, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe, apply overrides and check all of it.

    Args:
        name_or_path: A shipped recipe's name, or the path of a TOML file.
        overrides: Values by dotted location, such as `{"optim.peak_lr": 1e-3}`.

    Raises:
        UsageError: There is no such recipe.
        RecipeError: The recipe has faults; all are listed by dotted location.
    """
    values = _read_with_overrides(name_or_path, overrides or {})
    return check_values(values, where=name_or_path)


def check_settings(name_or_path: str, *, overrides: Mapping[str, Any]) -> None:
    """Check that a recipe and its overrides are settings there are, each in its range.

    Contradictions between settings are left to `load_recipe`.

    Raises:
        UsageError: There is no such recipe.
        RecipeError: Settings have faults; all are listed by dotted location.
    """
    _validated(_read_with_overrides(name_or_path, overrides), where=name_or_path)


def check_values(values: Values, *, where: str) -> Recipe:
    """Return the recipe that nested values describe, or raise with every fault listed."""
    recipe = _validated(values, where=where)
    if faults := cross_faults(recipe):
        raise _recipe_error(where, faults)
    return recipe


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `section.key=value`; the value is read as TOML, and as plain text where that fails.

    A value `@FILE` is the list of the file's lines, for long lists of classes.

    Raises:
        UsageError: There is no `=`, or no location before it, or the file cannot be read.
    """
    location, sign, raw = text.partition("=")
    if not sign or not location.strip():
        raise UsageError(
            f"--set '{text}' is not of the form section.key=value",
            hint="For example: --set optim.weight_decay=0.03",
        )
    try:
        return location.strip(), tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        text_value = raw.strip()
    return location.strip(), _lines(text_value) if text_value.startswith("@") else text_value


def _lines(reference: str) -> list[str]:
    path = Path(reference.removeprefix("@")).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--set cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}",
            hint="After @ comes a text file with one value a line: "
            "--set data.classes=@my-classes.txt",
        ) from error
    return [line.strip() for line in lines if line.strip()]


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as TOML that can be run again; settings left out stay left out."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def field_locations() -> dict[str, str]:
    """Return the sentence on every setting, by dotted location."""
    return dict(_walk_fields(Recipe, ""))


def differing_values(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by dotted location; titles and evidence are left out."""
    left, right = _flatten(first.model_dump()), _flatten(second.model_dump())
    described = ("title", "evidence.", "sources.")
    return {
        key: (left.get(key), right.get(key))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key) and not key.startswith(described)
    }


def find_recipe(name_or_path: str) -> Path:
    """Return the file of a recipe given by name or by path; raise UsageError with suggestions."""
    shipped = recipes_root() / f"{name_or_path}.toml"
    if name_or_path in list_recipes():
        return shipped
    path = Path(name_or_path)
    if path.suffix == ".toml" and path.is_file():
        return path
    if path.suffix in OTHER_FORMATS and path.exists():
        raise UsageError(
            f"recipes are TOML, and {path} is a {path.suffix} file",
            hint="Write it as TOML: deit-transfer recipes show finetune/folder prints an example",
        )
    suggestion = did_you_mean(name_or_path, list_recipes())
    raise UsageError(
        f"there is no recipe '{name_or_path}'. {suggestion}".strip(),
        hint="deit-transfer recipes list shows the shipped ones; a path must end in .toml",
    )


def _read_with_overrides(name_or_path: str, overrides: Mapping[str, Any]) -> Values:
    values = _read_with_parents(find_recipe(name_or_path), seen=())
    for location, value in overrides.items():
        _place(values, location, value)
    return values


def _validated(values: Values, *, where: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _recipe_error(where, [_fault(dict(item)) for item in error.errors()]) from None


def _read_with_parents(path: Path, *, seen: tuple[Path, ...]) -> Values:
    if path in seen:
        raise RecipeError(f"{path} extends itself", faults=[f"extends: {p}" for p in seen])
    values = _read_toml(path)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise _recipe_error(str(path), ["extends: must be the name of one recipe, as text"])
    beside = path.parent / parent
    parent_path = beside if beside.is_file() else find_recipe(parent)
    merged = _read_with_parents(parent_path, seen=(*seen, path))
    # what a parent was measured at says nothing about a recipe that differs from it
    merged.pop("evidence", None)
    return _merge(merged, values)


def _read_toml(path: Path) -> Values:
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise _recipe_error(str(path), [f"file: larger than {MAX_RECIPE_BYTES} bytes"])
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _recipe_error(str(path), [f"file: not valid TOML, {error}"]) from None


def _merge(base: Values, change: Values) -> Values:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _place(values: Values, location: str, value: Any) -> None:
    *sections, key = location.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise _recipe_error("--set", [f"{location}: '{section}' is a value, not a section"])
    values[key] = value


def _recipe_error(where: str, faults: Sequence[str]) -> RecipeError:
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    return RecipeError(
        f"the recipe {where} has {count}:",
        faults=faults,
        hint="deit-transfer recipes show NAME prints a recipe with a sentence on each setting",
    )


def _fault(error: Mapping[str, Any]) -> str:
    location = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        suggestion = did_you_mean(location, field_locations())
        return f"{location}: no such setting. {suggestion}".rstrip()
    if error["type"] == "missing":
        return f"{location}: must be given"
    if error["type"] == "string_pattern_mismatch":
        return f"{location}: {error['input']!r} is no choice. {field_locations()[location]}"
    said = error["msg"].replace("Input should be", "must be")
    return f"{location}: {said}, got {error['input']!r}"


def _walk_fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk_fields(kind, f"{prefix}{name}.")
        else:
            choices = [c for c in get_args(kind) if isinstance(c, str)]
            listed = f" Choices: {', '.join(choices)}." if choices else ""
            yield f"{prefix}{name}", f"{field.description or ''}{listed}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Values:
    flat: Values = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
