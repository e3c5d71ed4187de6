"""`predict`: classify image files."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_paths, check_subjects
from deit_transfer.cli.options import (
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
from deit_transfer.errors import DataError


def predict(
    subject: SubjectArgument,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", callback=expand_home, help="Images, or folders of any depth."
        ),
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes shown of each image.")] = 5,
    heads: Annotated[
        str, typer.Option("--heads", help="Heads to report: class,distill,joint or some of them.")
    ] = "joint",
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", callback=expand_home, help="Write a CSV file instead of showing a table."
        ),
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Classify images. Unreadable ones are listed at the end (exit code 3)."""
    check_subjects(subject)
    check_paths(paths)
    from deit_transfer.evaluation.predict import check_csv, write_predictions_csv
    from deit_transfer.evaluation.predict import predict as run_predict
    from deit_transfer.report.prediction import pace_line, prediction_table

    output = Output(as_json=as_json, quiet=quiet)
    if csv is not None:
        check_csv(csv)
    with progress_shown(output, f"asking {subject}") as progress:
        result = run_predict(
            subject,
            paths,
            top=top,
            heads=split_list(heads, option="--heads", example="class,distill"),
            overrides=place_overrides(None, device, precision, workers),
            progress=progress,
        )
    for note in result["notes"]:
        output.tell(f"note: {note}")
    if csv is not None:
        write_predictions_csv(csv, result)
        output.tell(f"Written: {csv}")
    if result["num_answered"]:
        output.tell(pace_line(result))
    output.finish(result, *([prediction_table(result)] if csv is None else []))
    if result["unreadable"]:
        raise _unreadable(result)


def _unreadable(result: dict) -> DataError:
    from deit_transfer.report.number_format import counted

    bad = result["unreadable"]
    count = f"{len(bad):,} of {counted(result['num_images'], 'image')}"
    listed = "".join(f"\n  - {one['reason']}" for one in bad)
    others = "The others are classified; fix or remove these"
    return DataError(
        f"{count} could not be read:{listed}",
        hint=others if result["num_answered"] else "Give files that hold an image, whole",
    )
