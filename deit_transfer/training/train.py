"""One training run, in the order it happens: data, weights, network, steps, result."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deit_transfer.data.pipeline.loader import LoadedStep
from deit_transfer.engine.distributed import World
from deit_transfer.engine.loop import train_steps
from deit_transfer.engine.signals import StopSignals
from deit_transfer.models.pretrained import read_pretrained
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import RESULT_FILE, RunFolder
from deit_transfer.runs.key import find_by_key, run_key
from deit_transfer.training import build
from deit_transfer.training.callbacks import Callbacks, NoCallbacks
from deit_transfer.training.counters import Counters
from deit_transfer.training.data_splits import DataSplits, check_readable, load_splits
from deit_transfer.training.final_eval import finish
from deit_transfer.training.header import header_facts
from deit_transfer.training.resume import (
    find_earlier_run,
    read_frozen_settings,
    record_setup,
    start_run_folder,
    watch_status,
)
from deit_transfer.training.setup import RunSetup, build_train_state, set_up_run
from deit_transfer.training.teacher import RunTeacher, find_teacher
from deit_transfer.training.trainer import Trainer

# torchrun passes on the Ctrl-C that the terminal has already sent to every process
TORCHRUN_REPEAT_S = 1.0


def train(
    recipe: Recipe,
    *,
    out: Path,
    name: str | None = None,
    resume: bool = False,
    splits: DataSplits | None = None,
    callbacks: Callbacks | None = None,
    world: World | None = None,
    began: float | None = None,
    go_on: str = "Run the same command again with --resume to go on",
) -> dict[str, Any]:
    """Train what a recipe says and score it once on the test split.

    Args:
        recipe: Checked and whole.
        out: Folder that holds the runs.
        name: The run's folder below `out`; None makes one from dataset, mode, model and seed.
        resume: Go on with the unfinished run of this recipe and data; start it if there is none.
        splits: The data, when the caller has loaded it already.
        callbacks: What is shown while it trains.
        world: The processes that train together; None for one.
        began: When a time budget began to run, on the clock of `time.monotonic`; None for now.
        go_on: What a person whom a signal stopped is told to type.

    Returns:
        The result object, as it stands in `result.json`.

    Raises:
        StoppedError: A signal arrived; the state is saved.
    """
    callbacks, world = callbacks or NoCallbacks(), world or World()
    began = time.monotonic() if began is None else began
    repeat_s = TORCHRUN_REPEAT_S if world.size > 1 else 0.0
    with StopSignals(
        repeat_s=repeat_s,
        on_interrupt=callbacks.stopping,
        before_exit=callbacks.leave,
        hint=go_on,
    ) as stop:

        def stop_if_asked(_done: int, _total: int) -> None:
            stop.check()

        def show_loading(done: int, total: int) -> None:
            stop.check()
            callbacks.loading(recipe.data.dataset, done, total)

        if splits is None:
            splits = load_splits(recipe.data, progress=show_loading)
            if world.is_main:
                check_readable(splits, allow_bad=recipe.data.allow_bad, progress=stop_if_asked)
        start = read_pretrained(recipe.model.pretrained, model_name=recipe.model.name)
        stop.check(world)
        key = run_key(recipe, splits.fingerprint, start)
        earlier = find_earlier_run(out, name, recipe, key=key, resume=resume, world=world)
        if earlier is not None and (result := earlier.read_json(RESULT_FILE)):
            result["run"] = str(earlier)  # as seen from here
            callbacks.note(f"{earlier} is finished already: nothing is left to do")
            callbacks.done(result)
            return result
        if world.is_main and (same := find_by_key(out, key, finished=True)) is not None:
            callbacks.note(f"the same run is in {same}; this one trains it once more")

        # All that can be wrong is found before there is a folder
        frozen = read_frozen_settings(earlier) if earlier is not None else None
        setup = set_up_run(recipe, splits, start, world=world, began=began, frozen=frozen)
        teacher = find_teacher(setup, stop=stop)
        folder = earlier or start_run_folder(out, name, recipe, key=key, world=world)
        with watch_status(folder, world):
            result = _train(setup, teacher, folder, callbacks, stop)
            callbacks.done(result)
            return result


def _train(
    setup: RunSetup,
    teacher: RunTeacher | None,
    folder: RunFolder,
    callbacks: Callbacks,
    stop: StopSignals,
) -> dict[str, Any]:
    recipe, splits, world = setup.recipe, setup.splits, setup.world
    classifier = setup.classifier
    record_setup(folder, setup)
    callbacks.header(header_facts(setup, folder=str(folder)))
    if teacher is not None:
        callbacks.note(teacher.description)

    # Optimizer, EMA, and where an earlier attempt left off
    state = build_train_state(setup, teacher=teacher)
    trainer = Trainer(
        setup=setup,
        state=state,
        folder=folder,
        callbacks=callbacks,
        stop=stop,
        counters=Counters(forward_size=state.forward_size),
    )
    trainer.resume()

    # The steps
    counters = trainer.counters
    batches = build.batches(
        recipe,
        splits,
        classifier,
        setup.durations,
        start_step=counters.steps_done,
        world=world,
        progress=trainer.check_stop,
    )
    batches.while_waiting = trainer.stop_while_waiting
    for report in train_steps(
        state,
        _until_done(trainer, batches),
        nonfinite=recipe.run.nonfinite,
        nonfinite_budget=recipe.run.nonfinite_budget,
        nonfinite_seen=counters.nonfinite_seen,
        on_nonfinite=trainer.record_nonfinite,
        restore=trainer.restore,
        pauses_after=trainer.pauses_after,
    ):
        trainer.after_step(report, replaced=batches.replaced, notes=batches.notes)

    # The result
    return finish(trainer, teacher_top1=teacher.top1 if teacher is not None else None)


def _until_done(trainer: Trainer, batches: Iterable[LoadedStep]) -> Iterator[LoadedStep]:
    """Yield batches until the run is as long as it should be, which a time budget may move."""
    steps = iter(batches)
    while trainer.counters.steps_done < trainer.durations.total_steps:
        yield next(steps)
