"""`tokens`: what the class and the distillation token have learned."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets, check_image_files, check_subjects
from deit_transfer.cli.options import (
    FLAG_LOCATIONS,
    DataDirOption,
    DeviceOption,
    JsonFlag,
    QuietFlag,
    expand_home,
)
from deit_transfer.cli.progress import progress_shown


def tokens(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            callback=expand_home,
            help="A run's folder, a network's name, or MODEL=WEIGHTS.",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE...]",
            callback=expand_home,
            help="Image files. None: test images of the run.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", callback=expand_home, help="Use this dataset's test images."),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=1, max=100_000, help="Test images looked at.")
    ] = 200,
    out: Annotated[
        Path, typer.Option("--out", callback=expand_home, help="Folder for the plots.")
    ] = Path("tokens"),
    data_dir: DataDirOption = None,
    device: DeviceOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show how alike both tokens are in each layer, and what positions and tokens attend to."""
    check_subjects(subject)
    check_image_files(files or ())
    check_datasets([dataset] if dataset is not None else ())
    from deit_transfer.evaluation.tokens import tokens as run_tokens
    from deit_transfer.report.tokens import tokens_table

    overrides: dict[str, Any] = {}
    if device is not None:
        overrides[FLAG_LOCATIONS["device"]] = device
    if data_dir is not None:
        overrides["data.data_dir"] = str(data_dir)
    output = Output(as_json=as_json, quiet=quiet)
    with progress_shown(output, "looking") as progress:
        facts = run_tokens(
            subject,
            files=files or (),
            dataset_name=dataset,
            num_images=images,
            out=out,
            overrides=overrides,
            progress=progress,
        )
    drawn = ", ".join(facts["figures"].values())
    output.finish(facts, tokens_table(facts), f"Figures: {drawn}")
