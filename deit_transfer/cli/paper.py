"""`paper`: the paper's tables and figures, with what was measured here beside them."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.options import DEFAULT_OUT, JsonFlag, expand_home
from deit_transfer.errors import DataError, UsageError


def paper(
    table: Annotated[
        str | None,
        typer.Argument(metavar="[TABLE]", help="table1 to table9, figure1 or figure3; none: list."),
    ] = None,
    runs: Annotated[
        Path,
        typer.Option(
            "--runs",
            callback=expand_home,
            help="Folder that holds the runs to put beside the paper's.",
        ),
    ] = DEFAULT_OUT,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=expand_home, help="PNG file to draw figure1 or figure3 into."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a table of the paper with your own runs beside it, and the commands still to run."""
    from deit_transfer.paper.screen import filled_screen, table_list
    from deit_transfer.paper.tables import draw_figure, list_tables, paper_table

    output = Output(as_json=as_json)
    if table is None:
        if out is not None:
            raise UsageError("--out draws figure1 or figure3; name one of them")
        rows = list_tables()
        output.finish({"tables": rows}, table_list(rows))
        return
    if runs != DEFAULT_OUT and not runs.is_dir():
        raise DataError(
            f"there is no folder {runs}", hint="Name the folder that holds your runs: --runs FOLDER"
        )
    facts = paper_table(table, runs=runs)
    if out is not None:
        draw_figure(facts, out)
        facts["figure"] = str(out)
    output.finish(facts, filled_screen(facts))
