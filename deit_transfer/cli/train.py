"""Own `finetune` and `scratch`: one training run, from the images to the result table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.options import (
    DEFAULT_OUT,
    DatasetArgument,
    JsonFlag,
    NameOption,
    OutOption,
    QuietFlag,
    StartOption,
    TrainingFlags,
    with_training_flags,
)

if TYPE_CHECKING:
    from deit_transfer.recipe.schema import Recipe

ResumeFlag = Annotated[
    bool, typer.Option("--resume", help="Go on with the unfinished run of this command.")
]


@with_training_flags
def finetune(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    start: StartOption = None,
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    resume: ResumeFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fine-tune a pretrained DeiT on a dataset."""
    from deit_transfer.run.choose import choose_recipe

    recipe = choose_recipe(
        "finetune", dataset, recipe_name=flags.recipe, start=start, overrides=flags.overrides()
    )
    _train(recipe, out, name, resume, Output(as_json=as_json, quiet=quiet))


@with_training_flags
def scratch(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    resume: ResumeFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a DeiT on a dataset from random weights."""
    from deit_transfer.run.choose import choose_recipe

    recipe = choose_recipe(
        "scratch", dataset, recipe_name=flags.recipe, overrides=flags.overrides()
    )
    _train(recipe, out, name, resume, Output(as_json=as_json, quiet=quiet))


def _train(recipe: "Recipe", out: Path, name: str | None, resume: bool, output: Output) -> None:
    from deit_transfer.cli.screens import TrainingScreen
    from deit_transfer.run.train import train

    with TrainingScreen(output) as screen:
        result = train(recipe, out=out, name=name, resume=resume, observer=screen)
    output.finish(result)
