"""Set up a run: device, precision, network, attention kernel, length, and the training state."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from deit_transfer.data.splits import take_limit
from deit_transfer.engine.captured_step import capture_cuda_graph
from deit_transfer.engine.distributed import World
from deit_transfer.engine.glibc_malloc import keep_freed_memory
from deit_transfer.engine.precision import (
    Precision,
    choose_attention,
    resolve_device,
    resolve_precision,
)
from deit_transfer.engine.state import TeacherFunction, TrainState
from deit_transfer.models.checkpoint_adaptation import LoadReport
from deit_transfer.models.classifier import Attention, Classifier, set_attention
from deit_transfer.models.compile import compile_network
from deit_transfer.models.pretrained import PretrainedWeights
from deit_transfer.recipe.durations import Durations
from deit_transfer.recipe.schema import Recipe
from deit_transfer.training import build
from deit_transfer.training.data_splits import DataSplits
from deit_transfer.training.fast_steps import (
    StepChoice,
    choose_capture,
    choose_compiling,
    why_read_at_once,
)
from deit_transfer.training.head_start import HeadStart, start_heads
from deit_transfer.training.time_budget import (
    FORWARD_SHARE,
    TimeBudget,
    images_per_second,
    training_seconds,
)

# Logistic regression on this many features takes seconds, and more hardly change the start
HEAD_START_IMAGES = 2000
# so that there are 10 images a class
HEAD_START_CLASSES = 200
# of a time budget: scoring on a busy machine takes longer than was measured
SPENT_SHARE = 0.96
HEAD_START_SHARE = 0.25  # of a time budget, at most


@dataclass(frozen=True, kw_only=True)
class FrozenSettings:
    """What was decided when a run first started, and must stay when it resumes."""

    durations: Durations
    attention: Attention


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """A run that is ready to start.

    `keeps_memory` says that the C library was told to keep freed blocks; `estimated_s` is that of
    all steps; `head_start` is None where the heads are drawn, kept or resumed; `budget` is None
    where the length is fixed.
    """

    recipe: Recipe
    splits: DataSplits
    start: PretrainedWeights
    classifier: Classifier
    load_report: LoadReport | None
    durations: Durations
    device: torch.device
    precision: Precision
    attention: Attention
    keeps_memory: bool
    estimated_s: float
    compiling: StepChoice
    capture: StepChoice
    world: World
    head_start: HeadStart | None
    budget: TimeBudget | None


def set_up_run(
    recipe: Recipe,
    splits: DataSplits,
    start: PretrainedWeights,
    *,
    world: World,
    began: float,
    frozen: FrozenSettings | None = None,
) -> RunSetup:
    """Decide everything that a run needs before its first step.

    Args:
        recipe: The recipe.
        splits: The images.
        start: The weights to start from.
        world: The processes that will train together.
        began: When a time budget began to run, on the clock of `time.monotonic`.
        frozen: The settings of the run when it first started, if it is resumed.
    """
    device = resolve_device(recipe.run.device, local_rank=world.local_rank)
    precision = resolve_precision(recipe.run.precision, device)
    keeps_memory = device.type == "cpu" and keep_freed_memory()
    classifier, load_report = build.network(recipe, splits.class_names, start, device)
    build.check_transforms(recipe, classifier)
    attention = frozen.attention if frozen is not None else _attention(recipe, precision)
    set_attention(classifier, attention)
    head_start = (
        _start_heads(recipe, splits, classifier, device, precision)
        if frozen is None and _fits_heads(recipe, splits, start)
        else None
    )
    side = classifier.resolution
    speeds = {
        pixels: world.size
        * images_per_second(
            classifier,
            resolution=pixels,
            batch_size=build.micro_batch_size(recipe, world),
            device=device,
            precision=precision,
        )
        for pixels in {side, *(min(pixels, side) for pixels, _ in recipe.schedule.progressive)}
    }
    durations = (
        frozen.durations if frozen else build.durations(recipe, num_images=len(splits.train))
    )
    estimated_s = training_seconds(durations, recipe, resolution=side, speeds=speeds)
    budget = None
    if recipe.run.time_budget_minutes is not None:
        each_s = FORWARD_SHARE / speeds[side]
        if head_start is not None:  # measured, decoding included
            each_s = head_start.seconds_per_image / world.size
        num_val = 0 if splits.val is None else len(splits.val)
        budget = TimeBudget(
            deadline=began + SPENT_SHARE * 60 * recipe.run.time_budget_minutes,
            scoring_s=each_s * len(splits.test),
            epoch_end_s=each_s * num_val * (2 if recipe.optim.ema else 1),
            step_s=estimated_s / durations.total_steps,
        )
        if frozen is None:
            durations = world.broadcast(budget.fit(durations))
        estimated_s = training_seconds(durations, recipe, resolution=side, speeds=speeds)
    compiling = choose_compiling(recipe, device, estimated_s=estimated_s)
    if compiling.on:
        compile_network(classifier, device=device)
    return RunSetup(
        recipe=recipe,
        splits=splits,
        start=start,
        classifier=classifier,
        load_report=load_report,
        durations=durations,
        device=device,
        precision=precision,
        attention=attention,
        keeps_memory=keeps_memory,
        estimated_s=estimated_s,
        compiling=compiling,
        capture=choose_capture(
            recipe,
            classifier,
            device,
            precision,
            total_steps=durations.total_steps,
            world=world,
        ),
        world=world,
        head_start=head_start,
        budget=budget if recipe.compat == "none" else None,
    )


def _fits_heads(recipe: Recipe, splits: DataSplits, start: PretrainedWeights) -> bool:
    """Return whether new heads are fitted to features; a pretrained head is left as it is."""
    keeps_head = recipe.model.keep_head and start.class_names == splits.class_names
    few_classes = len(splits.class_names) <= HEAD_START_CLASSES
    asked = recipe.model.head_start == "features"
    return asked and few_classes and not start.is_none and not keeps_head


def _start_heads(
    recipe: Recipe,
    splits: DataSplits,
    classifier: Classifier,
    device: torch.device,
    precision: Precision,
) -> HeadStart | None:
    images = splits.train
    if len(images) > HEAD_START_IMAGES:
        images = images.subset(take_limit(images.labels, limit=HEAD_START_IMAGES, seed=0))
    # in any order: under a time budget, the first of them have to do
    images = images.subset(np.random.default_rng(0).permutation(len(images)))
    budget = recipe.run.time_budget_minutes
    return start_heads(
        classifier,
        build.scoring_batches(recipe, images, classifier, World()),
        normalize=build.normalization(classifier),
        device=device,
        precision=precision,
        class_shares=build.class_shares(splits) if recipe.optim.balance == "logits" else None,
        most_seconds=math.inf if budget is None else 60 * budget * HEAD_START_SHARE,
    )


def _attention(recipe: Recipe, precision: Precision) -> Attention:
    asked = recipe.run.attention
    return choose_attention(precision) if asked == "auto" else asked


def build_train_state(setup: RunSetup, *, teacher: TeacherFunction | None) -> TrainState:
    """Build the optimizer, the EMA and the rest of what updates the network."""
    recipe, classifier, durations = setup.recipe, setup.classifier, setup.durations
    on_cuda = setup.device.type == "cuda"
    return TrainState(
        model=classifier,
        optimizer=build.optimizer(recipe, classifier),
        objective=build.objective(recipe, setup.splits),
        batch_transforms=build.batch_transforms(recipe, classifier, setup.device),
        lr_at=build.learning_rates(recipe, durations),
        precision=setup.precision,
        device=setup.device,
        seed=recipe.run.seed,
        augment_seed=build.augment_seed(recipe),
        scaler=setup.precision.make_scaler(),
        ema=build.ema(recipe, classifier, total_steps=durations.total_steps),
        teacher=teacher,
        clip_grad_norm=recipe.optim.clip_grad_norm,
        forward_size=build.forward_size(recipe, classifier, setup.world),
        world=setup.world,
        read_late=on_cuda and not why_read_at_once(recipe, classifier, setup.precision),
        capture=capture_cuda_graph if setup.capture.on else None,
        teacher_sees_images_only=recipe.distill.cache is None,
        copy_stream=torch.cuda.Stream(setup.device) if on_cuda else None,
    )
