"""`report`: a run or a comparison as one self-contained HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_folder
from deit_transfer.cli.options import DataDirOption, JsonFlag, QuietFlag, expand_home


def report(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_COMPARISON",
            callback=expand_home,
            help="Folder of a finished run or comparison.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=expand_home, help="HTML file; default: report.html in that folder."
        ),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=0, max=60, help="Pictures in each list of mistakes.")
    ] = 12,
    data_dir: DataDirOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a self-contained HTML report."""
    check_folder(place)
    from deit_transfer.cli.progress import progress_shown
    from deit_transfer.html_report.report import report as write_report
    from deit_transfer.report.number_format import counted

    output = Output(as_json=as_json, quiet=quiet)
    with progress_shown(output, "reading the images") as progress:
        written = write_report(
            place, out=out, num_images=images, data_dir=data_dir, progress=progress
        )
    for note in written["notes"]:
        output.tell(f"note: {note}")
    size = f"{written['bytes'] / 1e6:.2f} MB, {counted(written['num_pictures'], 'picture')}"
    output.finish(written, written["headline"], f"Report: {written['report']} ({size})")
