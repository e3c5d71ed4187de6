"""`probe`: how good frozen features are, before any training."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets, check_subjects
from deit_transfer.cli.options import (
    DEFAULT_OUT,
    FLAG_LOCATIONS,
    PATH_LOCATIONS,
    DataDirOption,
    DatasetArgument,
    DeviceOption,
    JsonFlag,
    PrecisionOption,
    QuietFlag,
    RankOption,
    SetOption,
    SubjectArgument,
    WorkersOption,
    expand_home,
)


def probe(
    subject: SubjectArgument,
    dataset: DatasetArgument,
    data_dir: DataDirOption = None,
    rank: RankOption = None,
    train_limit: Annotated[
        int | None, typer.Option("--train-limit", help="Labeled images used in all, as finetune.")
    ] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", help="Share of the labeled images used.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Side of the input in pixels.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of weights that the file does not hold.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", callback=expand_home, help="Folder that keeps features for the next time."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=expand_home, help="New folder for the run; default: below runs/."
        ),
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    assignments: SetOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fit logistic regression and nearest neighbors to a network's frozen features."""
    check_subjects(subject)
    check_datasets([dataset])
    from deit_transfer.cli.progress import progress_shown
    from deit_transfer.evaluation.probe import probe as run_probe
    from deit_transfer.recipe.loader import parse_assignment
    from deit_transfer.report.probe import probe_table

    given = {
        "rank": rank,
        "train_limit": train_limit,
        "fraction": fraction,
        "seed": seed,
        "device": device,
        "precision": precision,
        "workers": workers,
    }
    overrides: dict[str, Any] = {
        FLAG_LOCATIONS[name]: value for name, value in given.items() if value is not None
    }
    if data_dir is not None:
        overrides[PATH_LOCATIONS["data_dir"]] = str(data_dir.resolve())
    overrides |= dict(parse_assignment(text) for text in assignments or [])
    output = Output(as_json=as_json, quiet=quiet)
    with progress_shown(output, "computing features") as progress:
        result = run_probe(
            subject,
            dataset,
            resolution=resolution,
            overrides=overrides,
            cache=cache,
            out=DEFAULT_OUT if out is None else out.parent,
            name=None if out is None else out.name,
            progress=progress,
        )
    output.finish(result, probe_table(result))
    output.suggest(["predict", result["run"], "photo.jpg"], ["report", result["run"]])
