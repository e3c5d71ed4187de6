"""Build the parts of a run from its recipe: the one place where settings meet classes."""

import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from deit_transfer.data.dataset import ImageSet, Progress
from deit_transfer.data.pipeline.batch_transforms import (
    BatchTransforms,
    make_batch_transforms,
    normalize,
)
from deit_transfer.data.pipeline.loader import (
    EvalBatches,
    TrainBatches,
    eval_batches,
    train_batches,
)
from deit_transfer.data.pipeline.samplers import Compat, StepPlan, epoch_views
from deit_transfer.data.pipeline.transforms import EvalTransform, eval_transform, train_transform
from deit_transfer.engine.distributed import World, batch_norm_statistics
from deit_transfer.engine.ema import Ema, decay_for
from deit_transfer.engine.losses import Objective, make_objective
from deit_transfer.engine.optimizer import make_optimizer
from deit_transfer.engine.schedule import learning_rate, learning_rate_deit
from deit_transfer.engine.seed import seed_model
from deit_transfer.errors import UsageError
from deit_transfer.models.checkpoint_adaptation import LoadReport, load_pretrained
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.freeze import freeze
from deit_transfer.models.pretrained import PretrainedWeights
from deit_transfer.recipe.checks import scaled_peak_lr
from deit_transfer.recipe.durations import Durations, plan_durations, resolution_at
from deit_transfer.recipe.schema import Recipe
from deit_transfer.training.data_splits import DataSplits

# DeiT-Ti at 224 pixels trains as fast in passes of 16 to 32 images as in 64 (docs/performance.md)
CPU_FORWARD_PIXELS = 32 * 224**2
MAX_AUTO_WORKERS = 8
MOST_LENGTHENED = 100
DEFAULT_CROP = 0.9  # timm's configuration of the published DeiT weights
REFERENCE_CROP = 0.875  # facebookresearch/deit main.py, --eval-crop-ratio


def network(
    recipe: Recipe, class_names: tuple[str, ...], start: PretrainedWeights, device: torch.device
) -> tuple[Classifier, LoadReport | None]:
    """Build the network, load the pretrained weights, and freeze what is not trained."""
    seed_model(recipe.run.seed)
    classifier = build_classifier(
        name=recipe.model.name,
        num_classes=len(class_names),
        resolution=recipe.model.resolution,
        drop_path=recipe.model.drop_path,
        patch_drop=recipe.model.patch_drop,
        drop=recipe.model.dropout,
        dynamic_resolution=bool(recipe.schedule.progressive),
        two_class_tokens=recipe.model.two_class_tokens,
    )
    report = None
    if not start.is_none:
        same_classes = start.class_names is not None and start.class_names == class_names
        keep_head = recipe.model.keep_head and same_classes
        report = load_pretrained(classifier, start, keep_head=keep_head)
        classifier.mean = start.mean or classifier.mean
        classifier.std = start.std or classifier.std
    freeze(classifier, recipe.model.freeze)
    return classifier.to(device), report


def durations(recipe: Recipe, *, num_images: int) -> Durations:
    """Return the length of the run in steps."""
    views = epoch_views(
        num_images=num_images,
        repeats=recipe.augment.repeats,
        compat=_compat(recipe),
        batch_size=recipe.schedule.batch_size,
        drop_last=recipe.compat == "deit",
    ).views
    if views == 0:
        raise UsageError(
            f"the {num_images} training images do not fill one batch of "
            f"{recipe.schedule.batch_size}, and the reference code drops incomplete batches",
            hint=f"Set --batch-size to {num_images} or less, or leave compat out",
        )
    return plan_durations(recipe.schedule, images_per_epoch=views)


def optimizer(recipe: Recipe, classifier: Classifier) -> Optimizer:
    """Build the optimizer over the trainable parameters."""
    settings = recipe.optim
    return make_optimizer(
        classifier.backbone,
        name=settings.name,
        peak_lr=scaled_peak_lr(recipe),
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        eps=settings.eps,
        momentum=settings.momentum,
        layer_decay=settings.layer_decay if settings.layer_decay < 1 else None,
    )


def ema(recipe: Recipe, classifier: Classifier, *, total_steps: int) -> Ema | None:
    """Build the EMA of the weights, unless the recipe has none."""
    if not recipe.optim.ema:
        return None
    return Ema(classifier, decay=recipe.optim.ema_decay or decay_for(total_steps))


def objective(recipe: Recipe, splits: DataSplits) -> Objective:
    """Choose the training objective."""
    return make_objective(
        kind=recipe.distill.kind,
        through=recipe.distill.through,
        label=recipe.optim.label_loss,
        alpha=recipe.distill.alpha,
        tau=recipe.distill.tau,
        two_class_tokens=recipe.model.two_class_tokens,
        compat_deit=recipe.compat == "deit",
        class_shares=class_shares(splits) if recipe.optim.balance == "logits" else None,
    )


def class_shares(splits: DataSplits) -> Tensor:
    """Return each class's share of the training images (K,); one without any counts as one."""
    counts = np.bincount(splits.train.labels, minlength=len(splits.class_names)).clip(min=1)
    return torch.from_numpy(counts / counts.sum()).float()


def learning_rates(recipe: Recipe, plan: Durations) -> Callable[[float], float]:
    """Return the learning rate as a function of the step."""
    optim, peak_lr = recipe.optim, scaled_peak_lr(recipe)
    if recipe.compat == "deit":
        return partial(
            learning_rate_deit,
            steps_per_epoch=plan.steps_per_epoch,
            epochs=plan.epochs,
            warmup_epochs=round(recipe.schedule.warmup_epochs),
            peak_lr=peak_lr,
            floor_lr=optim.floor_lr,
            warmup_lr=optim.warmup_lr,
        )
    return partial(
        learning_rate,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        peak_lr=peak_lr,
        floor_lr=optim.floor_lr,
        warmup_lr=optim.warmup_lr,
    )


def batch_transforms(
    recipe: Recipe, classifier: Classifier, device: torch.device
) -> BatchTransforms:
    """Build normalization, Mixup, CutMix, erasing and label smoothing for the device."""
    augment = recipe.augment
    return make_batch_transforms(
        mean=classifier.mean,
        std=classifier.std,
        num_classes=classifier.num_classes,
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        mixup_prob=augment.mix_prob,
        switch_prob=augment.switch_prob,
        smoothing=augment.smoothing,
        erasing_prob=augment.erasing,
        device=device,
    )


def normalization(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """Return the function from pixels (B, 3, H, W) uint8 to the network's input."""
    return partial(normalize, mean=classifier.mean, std=classifier.std)


def batches(
    recipe: Recipe,
    splits: DataSplits,
    classifier: Classifier,
    plan: Durations,
    *,
    start_step: int,
    world: World,
    progress: Progress | None = None,
) -> TrainBatches:
    """Return this process's share of every step from `start_step` on.

    `progress` is called while the images are decoded beforehand, and may raise to stop.
    """
    steps = StepPlan(
        num_images=len(splits.train),
        seed=augment_seed(recipe),
        batch_size=recipe.schedule.batch_size,
        micro_batch_size=micro_batch_size(recipe, world),
        # a time budget may turn out to hold many more
        epochs=plan.epochs * (MOST_LENGTHENED if recipe.run.time_budget_minutes else 1),
        resolution_for_epoch=partial(
            _resolution_for_epoch, recipe, plan.epochs, classifier.resolution
        ),
        repeats=recipe.augment.repeats,
        compat=_compat(recipe),
        rank=world.rank,
        world_size=world.size,
    )
    return train_batches(
        splits.train,
        steps,
        transform_for=partial(_training_transform, recipe, classifier.mean),
        start_step=start_step,
        workers=num_workers(recipe, world),
        decode_cache_mb=recipe.data.decode_cache_mb,
        pin_memory=_on_gpu(classifier),
        progress=progress,
    )


def augment_seed(recipe: Recipe) -> int:
    """Return the seed of sample order, augmentation and mixing."""
    return recipe.run.seed if recipe.augment.seed is None else recipe.augment.seed


def micro_batch_size(recipe: Recipe, world: World) -> int:
    """Return the images per micro-batch: as set, or a process's share of a step."""
    return recipe.schedule.micro_batch_size or -(-recipe.schedule.batch_size // world.size)


def forward_size(recipe: Recipe, classifier: Classifier, world: World) -> int | None:
    """Return the images of one forward pass where a micro-batch is cut smaller; None if it is not.

    On a CPU, whose speed does not grow with the batch, smaller passes save memory. The gradient is
    the same up to rounding; batch norms would see the difference, so networks with them are left.
    """
    if next(classifier.parameters()).device.type != "cpu" or batch_norm_statistics(classifier):
        return None
    fitting = max(1, CPU_FORWARD_PIXELS // classifier.resolution**2)
    return fitting if fitting < micro_batch_size(recipe, world) else None


def check_transforms(recipe: Recipe, classifier: Classifier) -> None:
    """Build the training transform once, to find an augmentation policy that cannot be read."""
    _training_transform(recipe, classifier.mean, classifier.resolution)


def scoring_batches(
    recipe: Recipe,
    images: ImageSet,
    classifier: Classifier,
    world: World,
    progress: Progress | None = None,
    *,
    transform: EvalTransform | None = None,
) -> EvalBatches:
    """Return this process's share of a split that is scored; `progress` as in `batches`.

    `transform` is another view than the recipe's, such as a larger one to cut crops from.
    """
    usual = eval_transform(resolution=classifier.resolution, crop_pct=evaluation_crop(recipe))
    return eval_batches(
        images,
        transform=transform or usual,
        batch_size=recipe.run.eval_batch_size,
        workers=num_workers(recipe, world),
        rank=world.rank,
        world_size=world.size,
        allow_bad=recipe.data.allow_bad,
        decode_cache_mb=recipe.data.decode_cache_mb,
        pin_memory=_on_gpu(classifier),
        progress=progress,
    )


def evaluation_crop(recipe: Recipe) -> float:
    """Return crop_pct: the share of the side that the evaluation crop keeps."""
    if recipe.augment.crop_pct is not None:
        return recipe.augment.crop_pct
    return REFERENCE_CROP if recipe.compat == "deit" else DEFAULT_CROP


def num_workers(recipe: Recipe, world: World) -> int:
    """Return the number of DataLoader workers: as set, or this process's share of the cores.

    Where the network runs on the CPU too, extra processes only take its cores away.
    """
    if recipe.run.workers is not None:
        return recipe.run.workers
    if recipe.run.device == "cpu" or not torch.cuda.is_available():
        return 0
    return min(MAX_AUTO_WORKERS, (os.cpu_count() or 1) // world.size)


def _training_transform(
    recipe: Recipe, mean: tuple[float, ...], resolution: int
) -> Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]:
    augment = recipe.augment
    return train_transform(
        resolution=resolution,
        scale=(augment.crop_scale_min, 1.0),
        hflip=augment.hflip,
        policy=augment.policy,
        randaugment=augment.randaugment,
        color_jitter=augment.color_jitter,
        crop=augment.crop,
        mean=(mean[0], mean[1], mean[2]),
    )


def _on_gpu(classifier: Classifier) -> bool:
    return next(classifier.parameters()).is_cuda


def _compat(recipe: Recipe) -> Compat:
    return "deit" if recipe.compat == "deit" else ""


def _resolution_for_epoch(recipe: Recipe, epochs: int, resolution: int, epoch: int) -> int:
    return resolution_at(recipe.schedule, epoch=epoch, epochs=epochs, resolution=resolution)
