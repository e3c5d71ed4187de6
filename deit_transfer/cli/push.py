"""`push` and `card`: a run's repository on the Hugging Face hub, and its model card alone."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.options import JsonFlag, QuietFlag, RunArgument, expand_home


def card(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", callback=expand_home, help="Write it to this file instead."),
    ] = None,
) -> None:
    """Print a run's model card, in Markdown."""
    from deit_transfer.export.formats import finished_run

    finished_run(run)
    from deit_transfer.export.card import is_card, model_card
    from deit_transfer.files import check_replaceable, write_text_atomic

    if out is not None:
        check_replaceable(out, is_card, ours="a model card of this program")
    text = model_card(run)
    if out is None:
        print(text, end="")
    else:
        write_text_atomic(out, text)
        Output().tell(f"Written: {out}")


def push(
    run: RunArgument,
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The repository, made if it is new.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder, and upload nothing.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Upload a run with its model card to the Hugging Face hub."""
    from deit_transfer.export.formats import check_repository, finished_run

    check_repository(repository)
    finished_run(run)
    from deit_transfer.export.push import push as push_run
    from deit_transfer.report.export import push_screen

    output = Output(as_json=as_json, quiet=quiet)
    facts = push_run(run, repository, private=private, dry_run=dry_run)
    output.finish(facts, push_screen(facts))
