"""Own `compare`: from scratch and from pretrained weights, side by side."""

from typing import Annotated, Literal

import typer

from deit_transfer.cli.console import Output
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
    with_training_flags,
)
from deit_transfer.errors import UsageError

BudgetOption = Annotated[
    Literal["recipe", "equal-images"],
    typer.Option("--budget", help="Each arm its recipe's length, or the same images for all."),
]


@with_training_flags
def compare(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    start: StartOption = "imagenet",
    seeds: SeedsOption = 1,
    budget: BudgetOption = "recipe",
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train from scratch and from pretrained weights, and show both side by side.

    With --teacher, a third arm is fine-tuned with distillation.
    """
    if flags.recipe is not None:
        raise UsageError(
            "compare trains each arm with its own recipe, so --recipe says too little",
            hint="Change both arms with --set section.key=value",
        )
    from deit_transfer.cli.screens import TrainingScreen
    from deit_transfer.report.comparison import comparison_table
    from deit_transfer.run.compare import compare as run_comparison

    output = Output(as_json=as_json, quiet=quiet)
    with TrainingScreen(output, several=True) as screen:
        comparison = run_comparison(
            dataset,
            start=start or "imagenet",
            seeds=seeds,
            budget=budget,
            out=out,
            name=name,
            overrides=flags.overrides(),
            observer=screen,
        )
    output.finish(
        comparison, "", comparison_table(comparison), f"Figure and report: {comparison['folder']}"
    )
