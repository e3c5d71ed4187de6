"""Set up a run: device, precision, network, attention kernel, length, and the training state."""

from dataclasses import dataclass

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
from deit_transfer.training.head_start import start_heads
from deit_transfer.training.time_budget import fit_budget, images_per_second, training_seconds

HEAD_START_IMAGES = 2000


@dataclass(frozen=True, kw_only=True)
class FrozenSettings:
    """What was decided when a run first started, and must stay when it resumes."""

    durations: Durations
    attention: Attention


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """A run that is ready to start.

    `keeps_memory` says that the C library was told to keep freed blocks; `estimated_s` is None
    where nothing was timed.
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
    estimated_s: float | None
    compiling: StepChoice
    capture: StepChoice
    world: World


def set_up_run(
    recipe: Recipe,
    splits: DataSplits,
    start: PretrainedWeights,
    *,
    world: World,
    frozen: FrozenSettings | None = None,
) -> RunSetup:
    """Decide everything that a run needs before its first step.

    Args:
        recipe: The recipe.
        inputs: The images.
        start: The weights to start from.
        world: The processes that will train together.
        frozen: The settings of the run when it first started, if it is resumed.
    """
    device = resolve_device(recipe.run.device, local_rank=world.local_rank)
    precision = resolve_precision(recipe.run.precision, device)
    keeps_memory = device.type == "cpu" and keep_freed_memory()
    classifier, load_report = build.network(recipe, splits.class_names, start, device)
    build.check_transforms(recipe, classifier)
    attention = frozen.attention if frozen is not None else _attention(recipe, precision)
    set_attention(classifier, attention)
    durations = (
        frozen.durations
        if frozen is not None
        else build.durations(recipe, num_images=len(splits.train))
    )
    if recipe.model.head_start == "features" and frozen is None and not start.is_none:
        _start_heads(recipe, splits, classifier, device, precision, world)
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
    estimated_s = training_seconds(durations, recipe, resolution=side, speeds=speeds)
    if recipe.run.time_budget_minutes is not None and frozen is None:
        budget_s = 60 * recipe.run.time_budget_minutes
        durations = world.broadcast(
            fit_budget(durations, estimated_s=estimated_s, budget_s=budget_s)
        )
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
    )


def _start_heads(
    recipe: Recipe,
    splits: DataSplits,
    classifier: Classifier,
    device: torch.device,
    precision: Precision,
    world: World,
) -> None:
    images = splits.train
    if len(images) > HEAD_START_IMAGES:
        images = images.subset(
            take_limit(images.labels, limit=HEAD_START_IMAGES, fraction=None, seed=0)
        )
    start_heads(
        classifier,
        build.scoring_batches(recipe, images, classifier, World()),
        normalize=build.normalization(classifier),
        device=device,
        precision=precision,
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
        objective=build.objective(recipe),
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
