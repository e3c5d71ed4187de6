"""`sweep`: search over settings or recipes, chosen on validation images."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets, check_overrides
from deit_transfer.cli.options import (
    DEFAULT_OUT,
    JsonFlag,
    NameOption,
    OutOption,
    QuietFlag,
    StartOption,
    TrainingFlags,
    expand_home,
    with_training_flags,
)
from deit_transfer.errors import (
    DeitTransferError,
    DivergedError,
    ResourceError,
    UsageError,
)

SUBJECTS_HELP = "Dataset; with --recipes, more recipes may follow."
SubjectsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="DATASET [RECIPE]...", callback=expand_home, help=SUBJECTS_HELP),
]
GridOption = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="SECTION.KEY=A,B,C", help="Values to try; repeat."),
]
SpaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--space", metavar="SECTION.KEY=LOW..HIGH[:log]", help="Range to draw from; repeat."
    ),
]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", min=1, help="Let Optuna choose so many trials in all.")
]
PrunerOption = Annotated[
    Literal["median", "halving", "none"],
    typer.Option("--pruner", help="When Optuna gives up on a trial."),
]
RecipesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipes",
        metavar="RECIPE...",
        callback=expand_home,
        help="Compare recipes: names, files, 'dir/*'.",
    ),
]
ModeOption = Annotated[
    Literal["finetune", "scratch", "pretrain", "teacher"] | None,
    typer.Option("--mode", help="What each trial does; default finetune. Recipes say it."),
]


@with_training_flags
def sweep(
    flags: TrainingFlags,
    subjects: SubjectsArgument = None,
    grid: GridOption = None,
    space: SpaceOption = None,
    trials: TrialsOption = None,
    pruner: PrunerOption = "median",
    recipes: RecipesOption = None,
    mode: ModeOption = None,
    start: StartOption = None,
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Search settings on validation images: a grid, Optuna's choice, or a list of recipes."""
    subjects = subjects or []
    dataset = _dataset(
        subjects,
        recipes,
        around_one={
            "--grid": grid,
            "--space": space,
            "--trials": trials,
            "--recipe": flags.recipe,
            "--mode": mode,
        },
    )
    if dataset is not None:
        check_datasets([dataset])
        check_overrides(mode or "finetune", dataset, flags.overrides(), recipe_name=flags.recipe)
    from deit_transfer.cli.screens import TrainingScreen
    from deit_transfer.experiments.sweep import SweepSettings, sweep_recipes
    from deit_transfer.experiments.sweep import sweep as run_sweep
    from deit_transfer.report.sweep import sweep_table

    output = Output(as_json=as_json, quiet=quiet)
    with TrainingScreen(output, several=True) as screen:
        if recipes:
            found = sweep_recipes(
                dataset,
                recipe_names=[*recipes, *(one for one in subjects if one != dataset)],
                out=out,
                start=start,
                overrides=flags.overrides(),
                name=name,
                callbacks=screen,
            )
        else:
            settings = SweepSettings(
                mode=mode or "finetune",
                grids=grid or [],
                ranges=space or [],
                trials=trials,
                pruner=pruner,
                start=start,
                recipe_name=flags.recipe,
                overrides=flags.overrides(),
            )
            found = run_sweep(str(dataset), settings, out=out, name=name, callbacks=screen)
    output.finish(found, "", sweep_table(found), f"Table and settings: {found['folder']}")
    if found["winner"] is None:
        raise _nothing_finished(found)


def _dataset(
    subjects: list[str],
    recipes: list[str] | None,
    *,
    around_one: Mapping[str, object],
) -> str | None:
    """Return the dataset among what was named; None where the recipes are to say it."""
    if recipes:
        if given := [option for option, value in around_one.items() if value]:
            raise UsageError(
                f"--recipes compares recipes as they are; {', '.join(given)} cannot be had with it",
                hint="Leave it out; --set changes all recipes alike",
            )
        # the shell turns recipes/ablation/* into many words, and only the first is the option's
        return subjects[0] if subjects and not subjects[0].endswith(".toml") else None
    if len(subjects) != 1:
        raise UsageError(
            f"sweep takes one dataset, got {len(subjects)}: {', '.join(subjects) or 'none'}",
            hint="deit-transfer sweep photos --grid optim.peak_lr=5e-4,3e-4,5e-5",
        )
    return subjects[0]


def _nothing_finished(found: dict[str, Any]) -> DeitTransferError:
    states = {row["state"] for row in found["trials"]}
    kind = DivergedError if "diverged" in states else ResourceError
    return kind(
        f"None of {len(found['trials'])} trials finished: {found['trials'][0]['reason']}",
        hint="Search other settings; see the reasons above",
    )
