"""`compare`: from scratch and from pretrained weights, side by side."""

from typing import Annotated, Literal

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets, check_new_folder, check_overrides
from deit_transfer.cli.options import (
    DEFAULT_OUT,
    JsonFlag,
    NameOption,
    OutOption,
    QuietFlag,
    SeedsOption,
    StartOption,
    TrainingFlags,
    expand_home,
    split_list,
    with_training_flags,
)
from deit_transfer.errors import UsageError

DatasetsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="DATASET...",
        callback=expand_home,
        help="Catalog names, or folders of class folders.",
    ),
]
ArmsOption = Annotated[
    str | None,
    typer.Option("--arms", help="scratch,finetune,distilled,probe or recipes; by commas."),
]
FractionsOption = Annotated[
    str | None,
    typer.Option("--fractions", help="Shares of the labels to compare at: 0.01,0.1,1."),
]
BudgetOption = Annotated[
    Literal["recipe", "equal-images"],
    typer.Option("--budget", help="Each arm its recipe's length, or the same images for all."),
]


@with_training_flags
def compare(
    datasets: DatasetsArgument,
    flags: TrainingFlags,
    start: StartOption = "imagenet",
    arms: ArmsOption = None,
    fractions: FractionsOption = None,
    seeds: SeedsOption = 1,
    budget: BudgetOption = "recipe",
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train from scratch and from pretrained weights, and show both side by side.

    With --teacher, a third arm is fine-tuned with distillation. Several datasets give one table.
    """
    if flags.recipe is not None:
        raise UsageError(
            "compare trains each arm with its own recipe, so --recipe is not enough",
            hint=f"Add it as an arm: --arms scratch,finetune,{flags.recipe}; or change all arms "
            "with --set section.key=value",
        )
    check_datasets(datasets)
    check_new_folder(out, name, what="comparison")
    check_overrides("finetune", datasets[0], flags.overrides())
    from deit_transfer.cli.screens import TrainingScreen
    from deit_transfer.experiments.compare import ComparisonSettings
    from deit_transfer.experiments.compare import compare as run_comparison
    from deit_transfer.experiments.compare_datasets import compare_datasets
    from deit_transfer.report.comparison import comparison_table
    from deit_transfer.report.datasets_comparison import datasets_table

    output = Output(as_json=as_json, quiet=quiet)
    alone = len(datasets) == 1
    settings = ComparisonSettings(
        start=start or "imagenet",
        seeds=seeds,
        arms=split_list(arms, option="--arms", example="scratch,finetune,probe"),
        fractions=_numbers(fractions),
        budget=budget,
        overrides=flags.overrides(),
    )
    with TrainingScreen(output, several=True) as screen:
        if alone:
            found = run_comparison(datasets[0], settings, out=out, name=name, callbacks=screen)
        else:
            found = compare_datasets(datasets, settings, out=out, name=name, callbacks=screen)
    shown = comparison_table(found) if alone else datasets_table(found)
    output.finish(found, "", shown, f"Plot and report: {found['folder']}")
    for failure in found.get("failed", [])[:1]:
        raise typer.Exit(failure["exit_code"])


def _numbers(text: str | None) -> list[float]:
    """Return the shares of --fractions."""
    example = "0.01,0.05,0.1,0.25,1"
    try:
        return [float(part) for part in split_list(text, option="--fractions", example=example)]
    except ValueError:
        raise UsageError(
            f"--fractions '{text}' is not a list of numbers",
            hint=f"For example: --fractions {example}",
        ) from None
