"""`runs list|show|compare|clean`: earlier runs, how they ended and differ, and their room."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_folder, check_run
from deit_transfer.cli.options import DEFAULT_OUT, JsonFlag, expand_home
from deit_transfer.errors import DataError

app = typer.Typer(
    help="List, show, compare and clean runs.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_(
    folder: Annotated[
        Path, typer.Argument(callback=expand_home, help="Folder that holds the runs.")
    ] = DEFAULT_OUT,
    as_json: JsonFlag = False,
) -> None:
    """List the runs below a folder, oldest first."""
    from deit_transfer.report.runs import runs_table
    from deit_transfer.runs.listing import describe_runs

    # the default folder is not there before the first run; one that was named should be
    if folder != DEFAULT_OUT and not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}",
            hint=f"Name the folder that holds your runs; without a name it is {DEFAULT_OUT}",
        )
    rows = describe_runs(folder)
    Output(as_json=as_json).finish({"runs": rows}, runs_table(rows))


@app.command()
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", callback=expand_home, help="A run folder.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a run's result, epochs, weights and environment."""
    from deit_transfer.report.runs import run_screens
    from deit_transfer.runs.listing import describe_run

    facts = describe_run(run)
    Output(as_json=as_json).finish(facts, *run_screens(facts))


@app.command()
def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A", callback=expand_home, help="A finished run's folder.")
    ],
    second: Annotated[
        Path, typer.Argument(metavar="B", callback=expand_home, help="Another one's.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Compare two runs image by image, with a paired test."""
    check_run(first)
    check_run(second)
    from deit_transfer.report.run_diff import run_difference
    from deit_transfer.runs.diff import compare_runs

    facts = compare_runs(first, second)
    Output(as_json=as_json).finish(facts, run_difference(facts))


@app.command()
def clean(
    folder: Annotated[
        Path, typer.Argument(callback=expand_home, help="Folder that holds the runs.")
    ] = DEFAULT_OUT,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go, and remove nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove the checkpoints of finished runs."""
    check_folder(folder)
    from deit_transfer.report.export import clean_screen
    from deit_transfer.runs.clean import clean_runs

    facts = clean_runs(folder, dry_run=dry_run)
    Output(as_json=as_json).finish(facts, clean_screen(facts))
