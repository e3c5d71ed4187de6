"""The flags that several commands share, and the recipe settings they change.

The list is closed: a new setting belongs to the recipe schema, where `--set` reaches it.
"""

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from deit_transfer.errors import UsageError

DEFAULT_OUT = Path("runs")
MOST_NAME_BYTES = 200  # file systems take 255, and a number may be added
HOME_SIGN = re.compile(r"(^|[=:])~(?=/|$)")


def expand_home(value: Any) -> Any:
    """Return a path, or several, with ~ as the home folder: shells leave it in --out=~/runs.

    It is expanded as well in MODEL=~/WEIGHTS and behind `hf:`, `wds:` and `local-dir:`.
    """
    if isinstance(value, list | tuple):
        return [expand_home(one) for one in value]
    if isinstance(value, Path):
        return Path(expand_home(str(value)))
    if isinstance(value, str):
        return HOME_SIGN.sub(lambda found: found[1] + os.path.expanduser("~"), value)
    return value


def check_folder_name(value: str | None) -> str | None:
    """Refuse a --name that is no folder below --out."""
    if value is None:
        return None
    parts = Path(value).parts
    if not parts or ".." in parts or Path(value).is_absolute():
        raise UsageError(
            f"--name '{value}' is not the name of a folder below --out",
            hint="Say where with --out FOLDER and what it is called with --name, such as --name a",
        )
    if max(len(os.fsencode(part)) for part in parts) > MOST_NAME_BYTES:
        raise UsageError(
            f"--name is too long: a folder's name may take {MOST_NAME_BYTES} bytes",
            hint="Give a shorter --name",
        )
    return value


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes that begin with what was typed."""
    from deit_transfer.recipe.loader import list_recipes

    return [name for name in list_recipes() if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Return the networks of the table that begin with what was typed."""
    from deit_transfer.models.variants import VARIANTS

    return [name for name in VARIANTS if name.startswith(incomplete)]


DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        callback=expand_home,
        help="Catalog name, or a folder of class folders.",
    ),
]
SubjectArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_MODEL",
        callback=expand_home,
        help="Folder of a finished run, MODEL, or MODEL=WEIGHTS.",
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", callback=expand_home, help="A finished run's folder.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", callback=expand_home, help="Folder that holds the dataset."),
]
RankOption = Annotated[
    str | None,
    typer.Option("--rank", help="What is a class, in iNaturalist: species, genus, family ..."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any recipe setting; repeat."),
]
OutOption = Annotated[
    Path, typer.Option("--out", callback=expand_home, help="Folder that holds the runs.")
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", callback=check_folder_name, help="Name of the folder below --out."),
]
WorkersOption = Annotated[int | None, typer.Option("--workers", help="Loader processes.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")
]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")
]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=100, help="Seeds per arm.")]
StartOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="START",
        callback=expand_home,
        help="imagenet, a run, a weights file, a timm name (local-dir:, hf-hub:), or none.",
    ),
]
# of commands that start from nothing: hidden, and refused with the command that takes it
NoStartOption = Annotated[str | None, typer.Option("--from", hidden=True)]


@dataclass(frozen=True)
class TrainingFlags:
    """Flags that people change from run to run; None leaves the recipe's value."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            autocompletion=complete_model,
            help="DeiT variant, such as deit_tiny_patch16_224.",
        ),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            callback=expand_home,
            autocompletion=complete_recipe,
            help="Shipped recipe's name, or a TOML file.",
        ),
    ] = None
    data_dir: DataDirOption = None
    rank: RankOption = None
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Passes over the training images.")
    ] = None
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images per step over all processes.")
    ] = None
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="Peak learning rate at batch 512; scaled by batch / 512."),
    ] = None
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Side of the input in pixels.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")] = None
    train_limit: Annotated[
        int | None,
        typer.Option("--train-limit", help="Labeled images used in all, evenly per class."),
    ] = None
    fraction: Annotated[
        float | None, typer.Option("--fraction", help="Share of the labeled images used.")
    ] = None
    workers: WorkersOption = None
    device: DeviceOption = None
    precision: PrecisionOption = None
    time_budget: Annotated[
        float | None,
        typer.Option("--time-budget", metavar="MINUTES", help="Fit training into this time."),
    ] = None
    balance: Annotated[
        str | None,
        typer.Option("--balance", help="Classes as if equally frequent: logits, or none."),
    ] = None
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", callback=expand_home, help="Learn from this run, or network by name."
        ),
    ] = None
    distill: Annotated[
        str | None, typer.Option("--distill", help="How: hard (default with a teacher) or soft.")
    ] = None
    teacher_cache: Annotated[
        Path | None,
        typer.Option(
            "--teacher-cache", callback=expand_home, help="Folder that caches the teacher's logits."
        ),
    ] = None
    assignments: SetOption = None

    def overrides(self) -> dict[str, Any]:
        """Return the recipe settings that the flags change, by dotted location."""
        from deit_transfer.recipe.loader import parse_assignment

        chosen = {
            location: getattr(self, flag)
            for flag, location in FLAG_LOCATIONS.items()
            if getattr(self, flag) is not None
        }
        for flag, location in PATH_LOCATIONS.items():
            if getattr(self, flag) is not None:
                chosen[location] = str(getattr(self, flag).resolve())
        return chosen | dict(parse_assignment(text) for text in self.assignments or [])


FLAG_LOCATIONS = {
    "model": "model.name",
    "rank": "data.rank",
    "epochs": "schedule.epochs",
    "batch_size": "schedule.batch_size",
    "lr": "optim.peak_lr",
    "resolution": "model.resolution",
    "seed": "run.seed",
    "train_limit": "data.train_limit",
    "fraction": "data.fraction",
    "workers": "run.workers",
    "device": "run.device",
    "precision": "run.precision",
    "time_budget": "run.time_budget_minutes",
    "balance": "optim.balance",
    "teacher": "distill.teacher",
    "distill": "distill.kind",
}
PATH_LOCATIONS = {"data_dir": "data.data_dir", "teacher_cache": "distill.cache"}


def place_overrides(
    data_dir: Path | None, device: str | None, precision: str | None, workers: int | None
) -> dict[str, Any]:
    """Return the recipe settings of what is only asked, not trained, by dotted location."""
    given = {"device": device, "precision": precision, "workers": workers}
    chosen: dict[str, Any] = {
        FLAG_LOCATIONS[name]: value for name, value in given.items() if value is not None
    }
    return chosen | ({"data.data_dir": str(data_dir)} if data_dir is not None else {})


def split_list(text: str | None, *, option: str, example: str) -> tuple[str, ...]:
    """Return the parts of an option's list; none of an option that is not given.

    Args:
        text: Parts between commas.
        option: The option, as in --heads.
        example: What may be given, as in class,distill.

    Raises:
        UsageError: A part is empty.
    """
    if text is None:
        return ()
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise UsageError(
            f"{option} '{text}' has an empty part",
            hint=f"For example: {option} {example}",
        )
    return parts


def with_training_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Show each field of `flags: TrainingFlags` as an option of the command."""
    hints = get_type_hints(command, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(TrainingFlags)}
    field_hints = get_type_hints(TrainingFlags, include_extras=True)

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        flags = TrainingFlags(**{name: values.pop(name) for name in fields})
        command(**values, flags=flags)

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        parameter.replace(annotation=hints[name], kind=keyword)
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "flags"
    ]
    shared = [
        inspect.Parameter(name, keyword, default=field.default, annotation=field_hints[name])
        for name, field in fields.items()
    ]
    signature = inspect.Signature([*own, *shared])
    expanded.__signature__ = signature  # type: ignore[attr-defined]
    expanded.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return expanded
