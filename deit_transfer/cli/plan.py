"""`plan finetune|scratch`: preview a run and its estimated time."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets
from deit_transfer.cli.options import (
    DEFAULT_OUT,
    DatasetArgument,
    JsonFlag,
    NoStartOption,
    OutOption,
    StartOption,
    TrainingFlags,
    with_training_flags,
)

if TYPE_CHECKING:
    from deit_transfer.recipe.schema import Recipe

app = typer.Typer(
    help="Preview a run: settings, steps and estimated time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
@with_training_flags
def finetune(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    start: StartOption = None,
    out: OutOption = DEFAULT_OUT,
    as_json: JsonFlag = False,
) -> None:
    """Plan a fine-tuning run."""
    from deit_transfer.training.choose_recipe import choose_recipe

    output = Output(as_json=as_json)
    recipe = choose_recipe(
        "finetune",
        dataset,
        recipe_name=flags.recipe,
        start=start,
        overrides=flags.overrides(),
        tell=lambda note: output.tell(f"note: {note}"),
    )
    _plan(recipe, dataset, out, output)


@app.command()
@with_training_flags
def scratch(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    start: NoStartOption = None,
    out: OutOption = DEFAULT_OUT,
    as_json: JsonFlag = False,
) -> None:
    """Plan a run from random weights."""
    from deit_transfer.training.choose_recipe import choose_recipe

    recipe = choose_recipe(
        "scratch", dataset, recipe_name=flags.recipe, start=start, overrides=flags.overrides()
    )
    _plan(recipe, dataset, out, Output(as_json=as_json))


def _plan(recipe: "Recipe", dataset: str, out: Path, output: Output) -> None:
    check_datasets([dataset])
    from deit_transfer.cli.progress import progress_shown
    from deit_transfer.report.header import run_header
    from deit_transfer.training.plan import plan

    with progress_shown(output, f"preparing {recipe.data.dataset}", unit="MB") as progress:
        facts = plan(recipe, out=out, progress=progress)
    output.finish(asdict(facts), run_header(facts))
