"""`throughput`: images per second of networks on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_subjects
from deit_transfer.cli.options import (
    DeviceOption,
    JsonFlag,
    PrecisionOption,
    QuietFlag,
    expand_home,
)
from deit_transfer.cli.progress import progress_shown
from deit_transfer.errors import UsageError


def throughput(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL_OR_RUN...",
            callback=expand_home,
            help="Networks by name, or runs' folders.",
        ),
    ],
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images a batch. None: the largest that fits a GPU, the fastest on a CPU.",
        ),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", min=8, help="Side of the input in pixels.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed runs of each.")] = 30,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="RUNS_FOLDER",
            callback=expand_home,
            help="Draw accuracies of these runs against speed.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", callback=expand_home, help="PNG file to draw into (with --against)."),
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Time networks as the paper does: the batch that fits, 30 runs, the mean and its spread.

    A network given by its name has random weights, on which its speed does not depend.
    """
    if out is not None and against is None:
        raise UsageError(
            "--out draws accuracy against throughput, and there is no accuracy",
            hint="Add --against RUNS_FOLDER",
        )
    check_subjects(*subjects)
    from deit_transfer.evaluation.throughput import measure_throughput
    from deit_transfer.report.throughput import throughput_screen

    output = Output(as_json=as_json, quiet=quiet)
    with progress_shown(output, "timing", unit="runs") as progress:
        facts = measure_throughput(
            subjects,
            device_name=device or "auto",
            precision_name=precision or "auto",
            batch_size=batch_size,
            resolution=resolution,
            repeats=repeats,
            against=against,
            figure=out or Path("throughput.png"),
            progress=progress,
        )
    output.finish(facts, throughput_screen(facts))
