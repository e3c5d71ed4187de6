"""`finetune`, `scratch`, `pretrain` and `teacher fit`: train one run."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets, check_new_run
from deit_transfer.cli.options import (
    DEFAULT_OUT,
    DatasetArgument,
    JsonFlag,
    NameOption,
    NoStartOption,
    OutOption,
    QuietFlag,
    StartOption,
    TrainingFlags,
    with_training_flags,
)

if TYPE_CHECKING:
    from deit_transfer.recipe.schema import Mode

ResumeFlag = Annotated[
    bool, typer.Option("--resume", help="Go on with the unfinished run of this command.")
]


NprocOption = Annotated[
    int, typer.Option("--nproc", min=1, help="Processes on this machine, one per GPU.")
]

teacher_app = typer.Typer(
    help="Fit a teacher for distillation.", no_args_is_help=True, rich_markup_mode=None
)


@with_training_flags
def finetune(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    start: StartOption = None,
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    resume: ResumeFlag = False,
    nproc: NprocOption = 1,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fine-tune a pretrained DeiT on a dataset."""
    output = Output(as_json=as_json, quiet=quiet)
    _run("finetune", dataset, flags, start, RunPlace(out, name, resume, nproc), output)


@with_training_flags
def scratch(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    start: NoStartOption = None,
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    resume: ResumeFlag = False,
    nproc: NprocOption = 1,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a DeiT on a dataset from random weights."""
    output = Output(as_json=as_json, quiet=quiet)
    _run("scratch", dataset, flags, start, RunPlace(out, name, resume, nproc), output)


@with_training_flags
def pretrain(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    start: NoStartOption = None,
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    resume: ResumeFlag = False,
    nproc: NprocOption = 1,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Pretrain a DeiT as the paper does (Table 9), with or without a teacher."""
    output = Output(as_json=as_json, quiet=quiet)
    _run("pretrain", dataset, flags, start, RunPlace(out, name, resume, nproc), output)


@teacher_app.command("fit")
@with_training_flags
def teacher_fit(
    dataset: DatasetArgument,
    flags: TrainingFlags,
    start: StartOption = None,
    out: OutOption = DEFAULT_OUT,
    name: NameOption = None,
    resume: ResumeFlag = False,
    nproc: NprocOption = 1,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fit any timm network on a dataset, to teach a DeiT afterward."""
    output = Output(as_json=as_json, quiet=quiet)
    _run("teacher", dataset, flags, start, RunPlace(out, name, resume, nproc), output)


class RunPlace(NamedTuple):
    """Where a run is written, whether it resumes, and in how many processes."""

    out: Path
    name: str | None
    resume: bool
    nproc: int


def _run(
    mode: "Mode",
    dataset: str,
    flags: TrainingFlags,
    start: str | None,
    place: RunPlace,
    output: Output,
) -> None:
    from deit_transfer.cli.launch import launch_processes, shared_store
    from deit_transfer.training.choose_recipe import choose_recipe

    # all that can be known without torch, which takes seconds to import
    recipe = choose_recipe(
        mode, dataset, recipe_name=flags.recipe, start=start, overrides=flags.overrides()
    )
    check_datasets([dataset])
    check_new_run(place.out, place.name, resume=place.resume)
    if place.nproc > 1:
        launch_processes(place.nproc)
        return
    from deit_transfer.cli.screens import TrainingScreen
    from deit_transfer.engine.distributed import connected, world_from_env
    from deit_transfer.engine.precision import resolve_device
    from deit_transfer.training.callbacks import NoCallbacks
    from deit_transfer.training.train import train

    world = world_from_env()
    recipe = choose_recipe(
        mode,
        dataset,
        recipe_name=flags.recipe,
        start=start,
        overrides=flags.overrides(),
        tell=(lambda note: output.tell(f"note: {note}")) if world.is_main else None,
    )
    device = resolve_device(recipe.run.device, local_rank=world.local_rank)
    joined = connected(world, device=device, store=shared_store(world))
    with joined, TrainingScreen(output) as screen:
        result = train(
            recipe,
            out=place.out,
            name=place.name,
            resume=place.resume,
            callbacks=screen if world.is_main else NoCallbacks(),
            world=world,
            began=_process_began(),
        )
    if world.is_main:
        output.finish(result)
        run = result["run"]
        output.suggest(["predict", run, "photo.jpg"], ["report", run])


def _process_began() -> float:
    """Return when this process began, on the clock of `time.monotonic`."""
    import psutil

    return time.monotonic() - (time.time() - psutil.Process().create_time())
