"""`evaluate`: score a run or a network, on its own test images or on others."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets, check_subjects
from deit_transfer.cli.options import (
    DataDirOption,
    DeviceOption,
    JsonFlag,
    PrecisionOption,
    QuietFlag,
    SubjectArgument,
    WorkersOption,
    expand_home,
    place_overrides,
    split_list,
)
from deit_transfer.cli.progress import progress_shown
from deit_transfer.errors import UsageError


def evaluate(
    subject: SubjectArgument,
    datasets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATASET", callback=expand_home, help="None: the run's own test images."
        ),
    ] = None,
    split: Annotated[
        Literal["test", "val"], typer.Option("--split", help="test, or val to choose by it.")
    ] = "test",
    heads: Annotated[
        str | None, typer.Option("--heads", help="In full: class,distill,joint or some of them.")
    ] = None,
    tta: Annotated[
        Literal["one", "flip", "five", "ten"],
        typer.Option("--tta", help="Test-time augmentation: flip, five crops, or ten (both)."),
    ] = "one",
    resolutions: Annotated[
        str | None, typer.Option("--resolutions", help="Score at these too: 160,224,288.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Show every class, and what it is taken for.")
    ] = False,
    temperature: Annotated[
        bool | None,
        typer.Option(
            "--temperature/--no-temperature",
            help="Fit one on the run's validation images (default without DATASET).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", callback=expand_home, help="Write plots, CSV and predictions here."),
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Score a run on its own test images, or a run or network on any datasets it knows."""
    sides = _sides(resolutions)
    check_subjects(subject)
    check_datasets(datasets or ())
    from deit_transfer.evaluation.evaluate import evaluate as score
    from deit_transfer.report.evaluation import evaluation_screens

    output = Output(as_json=as_json, quiet=quiet)
    with progress_shown(output, f"scoring {subject}") as progress:
        result = score(
            subject,
            *(datasets or ()),
            overrides=place_overrides(data_dir, device, precision, workers),
            split=split,
            views=tta,
            resolutions=sides,
            heads=split_list(heads, option="--heads", example="class,distill"),
            per_class=per_class,
            temperature=temperature,
            out=out,
            progress=progress,
        )
    for note in dict.fromkeys(
        note for one in result.get("datasets", [result]) for note in one["notes"]
    ):
        output.tell(f"note: {note}")
    output.finish(result, *evaluation_screens(result), *_written(result, out))


def _sides(text: str | None) -> tuple[int, ...]:
    sides = split_list(text, option="--resolutions", example="160,224,288")
    for side in sides:
        if not side.isdecimal() or int(side) < 1:
            raise UsageError(
                f"--resolutions {text}: {side!r} is no number of pixels",
                hint="For example: --resolutions 160,224,288",
            )
    return tuple(map(int, sides))


def _written(result: dict, out: Path | None) -> list[str]:
    if out is None:
        return []
    count = sum(len(one["files"]) for one in result.get("datasets", [result]))
    return [f"{count} files: {out}"]
