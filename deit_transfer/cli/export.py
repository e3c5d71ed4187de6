"""`export`: a run as a file that other programs open, checked against the run."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.options import JsonFlag, QuietFlag, RunArgument, expand_home
from deit_transfer.cli.progress import progress_shown


def export(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", help="timm, hf, deit, onnx, onnx-int8 or torch.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=expand_home, help="File or folder to write. None: RUN/exported."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0, max=100, help="Points that onnx-int8 may lose."),
    ] = 0.5,
    raw: Annotated[
        bool, typer.Option("--raw", help="ONNX without resize, crop and normalization.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a run for other programs; kept only if it decides as the run does."""
    from deit_transfer.export.formats import check_export

    check_export(run, to, raw=raw)
    from deit_transfer.export.export import export as write_export
    from deit_transfer.report.export import export_screen

    output = Output(as_json=as_json, quiet=quiet)
    with progress_shown(output, f"exporting {run}") as progress:
        facts = write_export(run, to=to, out=out, tolerance=tolerance, raw=raw, progress=progress)
    for note in facts["notes"]:
        output.tell(f"note: {note}")
    output.finish(facts, export_screen(facts))
    output.show_code(["", "To open it, in Python:", *(f"  {line}" for line in facts["load"])])
