"""`epochs`: accuracy against epochs, with and without a teacher."""

from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets, check_new_folder, check_overrides
from deit_transfer.cli.options import (
    DEFAULT_OUT,
    DatasetArgument,
    JsonFlag,
    NameOption,
    OutOption,
    QuietFlag,
    SeedsOption,
    StartOption,
    TrainingFlags,
    split_list,
    with_training_flags,
)
from deit_transfer.errors import UsageError

GridOption = Annotated[
    str, typer.Option("--grid", metavar="EPOCHS,...", help="Lengths to train, such as 30,60,120.")
]


@with_training_flags
def epochs(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    grid: GridOption,
    start: StartOption = None,
    seeds: SeedsOption = 1,
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show accuracy against the length of training; with --teacher, distilled as well.

    From random weights, as in the paper's Figure 3; with --from, fine-tuned.
    """
    lengths = _lengths(grid)
    if flags.epochs is not None:
        raise UsageError(
            "--epochs gives one length, and --grid gives all of them",
            hint="Leave --epochs out",
        )
    check_datasets([dataset])
    check_new_folder(out, name, what="figure")
    check_overrides(
        "scratch" if start is None else "finetune",
        dataset,
        flags.overrides(),
        recipe_name=flags.recipe,
    )
    from deit_transfer.cli.screens import TrainingScreen
    from deit_transfer.experiments.epochs import epochs as run_epochs
    from deit_transfer.report.epochs_report import epochs_table

    output = Output(as_json=as_json, quiet=quiet)
    with TrainingScreen(output, several=True) as screen:
        found = run_epochs(
            dataset,
            lengths=lengths,
            seeds=seeds,
            start=start,
            recipe_name=flags.recipe,
            overrides=flags.overrides(),
            out=out,
            name=name,
            callbacks=screen,
        )
    output.finish(found, "", epochs_table(found), f"Plot and report: {found['folder']}")


def _lengths(grid: str) -> list[int]:
    """Return the lengths of a grid, or raise with everything that is wrong with it."""
    parts = split_list(grid, option="--grid", example="30,60,120")
    wrong = [part for part in parts if not part.isdecimal() or int(part) < 1]
    if wrong or len(set(parts)) != len(parts):
        fault = f"{', '.join(map(repr, wrong))} is none" if wrong else "one is given twice"
        raise UsageError(
            f"--grid '{grid}' must list whole numbers of epochs, each once: {fault}",
            hint="For example: --grid 30,60,120",
        )
    return [int(part) for part in parts]
