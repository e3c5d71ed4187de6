"""Own `runs list|show`: what was trained here and how it ended."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.options import DEFAULT_OUT, JsonFlag

app = typer.Typer(help="List and show runs.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder that holds the runs.")] = DEFAULT_OUT,
    as_json: JsonFlag = False,
) -> None:
    """List the runs below a folder, oldest first."""
    from deit_transfer.report.tables import runs_table
    from deit_transfer.run.inspect import describe_runs

    rows = describe_runs(folder)
    Output(as_json=as_json).finish({"runs": rows}, runs_table(rows))


@app.command()
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a run's result, epochs, start and environment."""
    from deit_transfer.report.tables import run_screens
    from deit_transfer.run.inspect import describe_run

    facts = describe_run(run)
    Output(as_json=as_json).finish(facts, *run_screens(facts))
