"""Own one training run, told in the order it happens: data, start, network, steps, result."""

from itertools import islice
from pathlib import Path
from typing import Any

from deit_transfer.engine.distributed import World
from deit_transfer.engine.loop import train_steps
from deit_transfer.engine.signals import StopSignals
from deit_transfer.models.pretrained import read_start
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import RESULT_FILE, RunFolder
from deit_transfer.runs.key import run_key
from deit_transfer.training import build
from deit_transfer.training.callbacks import Observer, Silent
from deit_transfer.training.counters import Progress
from deit_transfer.training.data_splits import Inputs, load_inputs
from deit_transfer.training.final_eval import finish
from deit_transfer.training.header import header_facts
from deit_transfer.training.resume import (
    find_earlier_run,
    read_agreed,
    record_blueprint,
    start_run_folder,
    watch_status,
)
from deit_transfer.training.setup import Blueprint, draw_blueprint
from deit_transfer.training.teacher import Teaching, find_teacher
from deit_transfer.training.trainer import Session

# torchrun passes on the Ctrl-C that the terminal has already sent to every process
TORCHRUN_REPEAT_S = 1.0


def train(
    recipe: Recipe,
    *,
    out: Path,
    name: str | None = None,
    resume: bool = False,
    inputs: Inputs | None = None,
    observer: Observer | None = None,
    world: World | None = None,
    go_on: str = "Run the same command again with --resume to go on",
) -> dict[str, Any]:
    """Train what a recipe says and score it once on the test split.

    Args:
        recipe: Checked and whole.
        out: Folder that holds the runs.
        name: The run's folder below `out`; None makes one from dataset, mode, model and seed.
        resume: Go on with the unfinished run of this recipe and data; start it if there is none.
        inputs: The data, when the caller has loaded it already.
        observer: Who is told what happens.
        world: The processes that train together; None for one.
        go_on: What a person whom a signal stopped is told to type.

    Returns:
        The result object, as it stands in `result.json`.

    Raises:
        StoppedError: A signal arrived; the state is saved.
    """
    observer, world = observer or Silent(), world or World()
    repeat_s = TORCHRUN_REPEAT_S if world.size > 1 else 0.0
    with StopSignals(repeat_s=repeat_s, before_exit=observer.leave, hint=go_on) as stop:

        def show_loading(done: int, total: int) -> None:
            stop.check()
            observer.loading(recipe.data.dataset, done, total)

        inputs = inputs or load_inputs(recipe.data, progress=show_loading)
        start = read_start(recipe.model.start, model_name=recipe.model.name)
        stop.check(world)
        key = run_key(recipe, inputs.fingerprint, start)
        earlier = find_earlier_run(out, name, recipe, key=key, resume=resume, world=world)
        if earlier is not None and (result := earlier.read_json(RESULT_FILE)):
            result["run"] = str(earlier)  # as seen from here
            observer.note(f"{earlier} is finished already: nothing is left to do")
            observer.done(result)
            return result

        # All that can be wrong is found before there is a folder
        agreed = read_agreed(earlier) if earlier is not None else None
        blueprint = draw_blueprint(recipe, inputs, start, world=world, agreed=agreed)
        teacher = find_teacher(blueprint, stop=stop)
        folder = earlier or start_run_folder(out, name, recipe, key=key, world=world)
        with watch_status(folder, world):
            result = _train(blueprint, teacher, folder, observer, stop)
            observer.done(result)
            return result


def _train(
    blueprint: Blueprint,
    teacher: Teaching | None,
    folder: RunFolder,
    observer: Observer,
    stop: StopSignals,
) -> dict[str, Any]:
    recipe, inputs, world = blueprint.recipe, blueprint.inputs, blueprint.world
    classifier, durations = blueprint.classifier, blueprint.durations
    record_blueprint(folder, blueprint)
    observer.header(header_facts(blueprint, folder=str(folder)))
    if teacher is not None:
        observer.note(teacher.description)

    # Optimiser, average, and where an earlier attempt left off
    session = Session(
        blueprint=blueprint,
        optimizer=build.optimizer(recipe, classifier),
        ema=build.ema(recipe, classifier, total_steps=durations.total_steps),
        scaler=blueprint.precision.make_scaler(),
        folder=folder,
        observer=observer,
        stop=stop,
        progress=Progress(forward_size=build.forward_size(recipe, classifier, world)),
    )
    session.resume()

    # The steps
    batches = build.batches(
        recipe,
        inputs,
        classifier,
        durations,
        start_step=session.progress.steps_done,
        world=world,
        progress=session.look_for_stop,
    )
    for report in train_steps(
        model=classifier,
        batches=islice(batches, durations.total_steps - session.progress.steps_done),
        prepare=build.preparation(recipe, classifier, blueprint.device),
        objective=build.objective(recipe),
        optimizer=session.optimizer,
        lr_at=build.learning_rates(recipe, durations),
        precision=blueprint.precision,
        device=blueprint.device,
        seed=recipe.run.seed,
        augment_seed=build.augment_seed(recipe),
        scaler=session.scaler,
        ema=session.ema,
        teacher=teacher,
        clip_grad_norm=recipe.optim.clip_grad_norm,
        nonfinite=recipe.run.nonfinite,
        nonfinite_budget=recipe.run.nonfinite_budget,
        nonfinite_seen=session.progress.nonfinite_seen,
        on_nonfinite=session.record_nonfinite,
        restore=session.restore,
        forward_size=session.progress.forward_size,
        world=world,
    ):
        session.after_step(report, replaced=batches.replaced)

    # The result
    return finish(session, teacher_top1=teacher.top1 if teacher is not None else None)
