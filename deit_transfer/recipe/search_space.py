"""The search space of a sweep: settings with their choices or ranges. No torch."""

import fnmatch
import itertools
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deit_transfer.errors import RecipeError, did_you_mean
from deit_transfer.recipe.loader import field_locations, list_recipes

Point = dict[str, Any]

# trials that see other images, or are of another kind, cannot be ranked against each other
FIXED = ("data", "evidence", "title", "mode", "sources")
RANGE = re.compile(r"(?P<low>[^:]+?)\.\.(?P<high>[^:]+?)(?P<log>:log)?")


@dataclass(frozen=True)
class Choices:
    """A setting and the values that are tried."""

    location: str
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values


@dataclass(frozen=True)
class Range:
    """A setting and the range its values are drawn from, both ends included."""

    location: str
    low: float
    high: float
    log: bool

    @property
    def ends(self) -> tuple[Any, ...]:
        return (self.low, self.high)

    @property
    def is_whole(self) -> bool:
        """Whether the values are whole numbers, as both ends are."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Dimension = Choices | Range


def read_space(
    grids: Sequence[str], ranges: Sequence[str] = (), *, given: Collection[str] = ()
) -> tuple[list[Dimension], list[str]]:
    """Read `section.key=a,b,c` and `section.key=low..high[:log]`.

    Args:
        grids: Settings with the values to try, read as TOML, and as plain text where that fails.
        ranges: Settings with a range.
        given: Settings that are fixed already, by dotted location.

    Returns:
        What can be varied, and everything that is wrong with the rest.
    """
    found: list[Dimension | str] = [_choices(text) for text in grids]
    found += [_range(text) for text in ranges]
    faults = [one for one in found if isinstance(one, str)]
    dimensions = [one for one in found if not isinstance(one, str)]
    names = [one.location for one in dimensions]
    wrong = {one: fault for one in names if (fault := _name_fault(one, names, given)) is not None}
    return [one for one in dimensions if one.location not in wrong], [*faults, *wrong.values()]


def search_error(faults: Sequence[str]) -> RecipeError:
    """Return the error that lists everything that keeps a search from starting."""
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    return RecipeError(
        f"the search has {count}; nothing was trained:",
        faults=faults,
        hint="For example: --grid optim.peak_lr=5e-4,3e-4,5e-5; with --trials also "
        "--space optim.peak_lr=1e-5..1e-3:log",
    )


def grid_points(dimensions: Sequence[Dimension]) -> list[Point]:
    """Return every combination of the choices; of a range, every combination of its ends."""
    names = [one.location for one in dimensions]
    combinations = itertools.product(*(one.ends for one in dimensions))
    return [dict(zip(names, values, strict=True)) for values in combinations]


def match_recipes(patterns: Sequence[str]) -> list[str]:
    """Return the recipes that names, files and patterns such as `ablation/*` mean, in order.

    Raises:
        RecipeError: A pattern fits nothing; all such are listed.
    """
    found: list[str] = []
    faults = []
    for pattern in patterns:
        matched = _matching(pattern)
        if not matched:
            suggestion = did_you_mean(pattern, list_recipes())
            faults.append(f"{pattern}: no such recipe. {suggestion}".rstrip())
        found += matched
    if faults:
        raise search_error(faults)
    return list(dict.fromkeys(found))


def describe_point(settings: Mapping[str, Any]) -> str:
    """Return settings as they are typed: `optim.peak_lr=0.0005 model.freeze=head`."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _matching(pattern: str) -> list[str]:
    if pattern in list_recipes() or Path(pattern).is_file():
        return [pattern]
    plain = not Path(pattern).is_absolute()
    files = sorted(str(path) for path in Path().glob(pattern)) if plain else []
    # a checkout's recipes/ablation/* are the shipped ablation/*
    shipped = pattern.removeprefix("recipes/").removesuffix(".toml")
    return [path for path in files if path.endswith(".toml")] or [
        name for name in list_recipes() if fnmatch.fnmatchcase(name, shipped)
    ]


def _choices(text: str) -> Choices | str:
    """Return the choices, or the fault that keeps them from being read."""
    location, sign, raw = (part.strip() for part in text.partition("="))
    if not sign or not location or not raw:
        return f"--grid '{text}': not of the form section.key=value,value"
    values = _values(raw)
    if repeated := [value for place, value in enumerate(values) if value in values[:place]]:
        return f"{location}: {repeated[0]!r} is given twice"
    return Choices(location, tuple(values))


def _values(raw: str) -> list[Any]:
    try:
        return tomllib.loads(f"values = [{raw}]")["values"]
    except tomllib.TOMLDecodeError:
        return [_value(part.strip()) for part in raw.split(",")]


def _value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _range(text: str) -> Range | str:
    location, _, raw = (part.strip() for part in text.partition("="))
    matched = RANGE.fullmatch(raw)
    if not location or matched is None:
        return f"--space '{text}': not of the form section.key=low..high or low..high:log"
    low, high = (_value(matched[end].strip()) for end in ("low", "high"))
    log = matched["log"] is not None
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
        return f"{location}: a range needs two numbers, got {raw}"
    if not low < high:
        return f"{location}: {low} is not below {high}"
    if log and low <= 0:
        return f"{location}: a range with :log must lie above 0, got {raw}"
    return Range(location, low, high, log)


def _name_fault(location: str, varied: Sequence[str], given: Collection[str]) -> str | None:
    known = field_locations()
    if location not in known:
        return f"{location}: no such setting. {did_you_mean(location, known)}".rstrip()
    if location.partition(".")[0] in FIXED:
        return (
            f"{location}: cannot be varied; all trials are chosen on the same images. "
            "Set it for all of them with --set"
        )
    if varied.count(location) > 1:
        return f"{location}: varied twice"
    if location in given:
        return f"{location}: both varied and set; leave one of them out"
    return None
