"""Collect the settings that the header of a run shows."""

import math

import torch

from deit_transfer.recipe.checks import scaled_peak_lr
from deit_transfer.recipe.durations import Durations
from deit_transfer.recipe.schema import Augment, Recipe
from deit_transfer.report.header import HeaderFacts
from deit_transfer.runs.environment import processor_name
from deit_transfer.training import build
from deit_transfer.training.setup import RunSetup


def header_facts(setup: RunSetup, *, folder: str) -> HeaderFacts:
    """Return everything that is decided before the first step, for people to read."""
    recipe, splits, classifier = setup.recipe, setup.splits, setup.classifier
    schedule, select, plan = recipe.schedule, splits.select, setup.durations
    per_process = -(-schedule.batch_size // setup.world.size)
    micro_batch_size = build.forward_size(
        recipe, classifier, setup.world
    ) or build.micro_batch_size(recipe, setup.world)
    parameters = list(classifier.parameters())
    report, precision = setup.load_report, setup.precision
    return HeaderFacts(
        mode=recipe.mode,
        dataset=splits.dataset.info.title,
        counts=splits.counts,
        class_names=splits.class_names,
        layout=splits.dataset.layout,
        data_notes=splits.dataset.notes,
        model=recipe.model.name,
        resolution=classifier.resolution,
        num_params=sum(p.numel() for p in parameters),
        num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
        start=recipe.model.pretrained,
        start_origin=setup.start.origin,
        load_report=report.summary[1:] if report is not None else (),
        head=_describe_head(setup),
        recipe=recipe.title,
        compat="the paper's own code (docs/differences.md)" if recipe.compat == "deit" else "",
        device=device_name(setup.device),
        precision=precision.name,
        precision_reason=precision.reason,
        attention=setup.attention,
        steps_note=_steps_note(setup),
        keeps_memory=setup.keeps_memory,
        world_size=setup.world.size,
        batch_size=schedule.batch_size,
        micro_batch_size=micro_batch_size,
        accumulation=-(-per_process // micro_batch_size),
        peak_lr=recipe.optim.peak_lr,
        scaled_lr=scaled_peak_lr(recipe),
        floor_lr=recipe.optim.floor_lr,
        warmup_epochs=round(plan.warmup_steps / plan.steps_per_epoch, 2),
        epochs=plan.epochs,
        epochs_note=_epochs_note(recipe, plan),
        steps=plan.total_steps,
        images_to_see=plan.images_to_see,
        augmentation=describe_augmentation(recipe.augment) + _describe_patch_drop(recipe),
        distillation=_describe_distillation(recipe),
        selection={
            "val": "the epoch that is best on val; test is scored once, at the end",
            "last": "the last epoch; test is scored once, at the end",
            "test": "the epoch that is best on test",
        }[select],
        selects_on_test=select == "test",
        estimated_seconds=setup.estimated_s,
        seed=recipe.run.seed,
        run_folder=folder,
    )


def _describe_head(setup: RunSetup) -> str:
    """Return how well the fitted head does before training: what fine-tuning has to beat."""
    if setup.head_start is None:
        return ""
    top1 = setup.head_start.fits[0].fold_top1
    estimate = "" if math.isnan(top1) else f": top-1 {top1:.1f}% on held-out training images"
    return f"starts from logistic regression on frozen features{estimate}"


def describe_augmentation(augment: Augment) -> str:
    """Return the augmentation in one line; what is off is left out."""
    simple = augment.crop == "simple"
    parts = ["simple random crop" if simple else f"crop {augment.crop_scale_min:g}-1"]
    if augment.hflip:
        parts.append("flip")
    if augment.policy == "randaugment":
        parts.append(augment.randaugment)
    elif augment.policy == "autoaugment":
        parts.append("AutoAugment")
    elif augment.policy == "three_augment":
        parts.append("3-Augment")
    named = {
        "jitter": augment.color_jitter,
        "erasing": augment.erasing,
        "Mixup": augment.mixup,
        "CutMix": augment.cutmix,
        "smoothing": augment.smoothing,
    }
    parts += [f"{name} {value:g}" for name, value in named.items() if value]
    if augment.repeats > 1:
        parts.append(f"{augment.repeats} views an image (repeated augmentation)")
    return ", ".join(parts)


def _steps_note(setup: RunSetup) -> str:
    """Return whether the network is compiled and the steps are captured, each with its reason."""
    named = ((setup.compiling, "compiled"), (setup.capture, "captured as a CUDA graph"))
    return "; ".join(
        (f"{name} ({choice.reason})" if choice.reason else name) if choice.on else choice.reason
        for choice, name in named
        if choice.on or choice.reason
    )


def _describe_patch_drop(recipe: Recipe) -> str:
    dropped = recipe.model.patch_drop
    return f", {100 * dropped:g}% of the patches left out" if dropped else ""


def _epochs_note(recipe: Recipe, plan: Durations) -> str:
    notes = []
    if recipe.run.time_budget_minutes is not None:
        notes.append(_budget_note(recipe, plan))
    elif plan.raised:
        steps = f"{recipe.schedule.min_steps} steps"
        notes.append(f"raised from {recipe.schedule.epochs} to reach {steps}")
    repeats = recipe.augment.repeats
    if repeats > 1:
        # the paper's "300 epochs" are 100 passes of three views each
        unique = -(-plan.images_per_epoch // repeats)
        passes = plan.epochs / repeats
        notes.append(
            f"each {repeats} views of {unique:,} images; {passes:g} passes over the images"
        )
    return "; ".join(notes)


def _budget_note(recipe: Recipe, plan: Durations) -> str:
    usual = recipe.schedule.epochs
    how = "shortened" if plan.epochs < usual else "lengthened"
    changed = f"{how} from {usual} " if plan.epochs != usual else ""
    return f"{changed}to fit the time budget of {recipe.run.time_budget_minutes:g} minutes"


def device_name(device: torch.device) -> str:
    """Return a device with the name of its chip."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        count = torch.get_num_threads()
        threads = "1 thread" if count == 1 else f"{count} threads"
        return f"cpu ({processor_name()}, {threads})"
    return str(device)


def _describe_distillation(recipe: Recipe) -> str:
    distill = recipe.distill
    if recipe.model.two_class_tokens:
        return "none; both tokens learn the true label (the paper's control)"
    if distill.kind == "none":
        return ""
    temperature = f", temperature {distill.tau:g}" if distill.kind == "soft" else ""
    where = "distillation token" if distill.through == "token" else "class token"
    return (
        f"{distill.kind}, weight {distill.alpha:g}{temperature}, through the {where}, "
        f"from {distill.teacher}"
    )
