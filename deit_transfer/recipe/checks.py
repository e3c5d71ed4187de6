"""Check a recipe for faults that only show when two settings are read together."""

from deit_transfer.recipe.schema import Recipe

REFERENCE_BATCH = 512  # learning rates are stated at it (section 6; main.py:350)


def scaled_peak_lr(recipe: Recipe) -> float:
    """Return the peak learning rate that the optimizer really gets: peak_lr x batch / 512."""
    return recipe.optim.peak_lr * recipe.schedule.batch_size / REFERENCE_BATCH


def cross_faults(recipe: Recipe) -> list[str]:
    """Return every contradiction between settings as `location: sentence`."""
    return [
        *_learning_rate_faults(recipe),
        *_schedule_faults(recipe),
        *_data_faults(recipe),
        *_token_faults(recipe),
    ]


def _learning_rate_faults(recipe: Recipe) -> list[str]:
    optim, peak = recipe.optim, scaled_peak_lr(recipe)
    faults = []
    for name, value in (("floor_lr", optim.floor_lr), ("warmup_lr", optim.warmup_lr)):
        if value > peak:
            faults.append(
                f"optim.{name}: {value:g} is above the peak after scaling, {peak:.3g} "
                f"(peak_lr {optim.peak_lr:g} x batch {recipe.schedule.batch_size} / 512); "
                "the rate would rise where it should fall"
            )
    if optim.label_loss == "bce" and recipe.augment.smoothing > 0:
        faults.append(
            "augment.smoothing: must be 0 with optim.label_loss = 'bce', "
            "where every smoothed class would count as present"
        )
    return faults


def _schedule_faults(recipe: Recipe) -> list[str]:
    schedule = recipe.schedule
    faults = []
    if schedule.warmup_epochs >= schedule.epochs and schedule.min_steps == 0:
        faults.append(
            f"schedule.warmup_epochs: {schedule.warmup_epochs:g} leaves nothing of "
            f"{schedule.epochs} epochs after the warm-up"
        )
    if (schedule.micro_batch_size or 0) > schedule.batch_size:
        faults.append(
            f"schedule.micro_batch_size: {schedule.micro_batch_size} is larger than "
            f"batch_size {schedule.batch_size}"
        )
    shares = [share for _, share in schedule.progressive]
    if any(share <= 0 for share in shares) or sum(shares) >= 1:
        faults.append(
            "schedule.progressive: shares must be positive and leave a rest for the full "
            f"resolution, but add up to {sum(shares):g}"
        )
    return faults


def _data_faults(recipe: Recipe) -> list[str]:
    data = recipe.data
    faults = []
    if data.train_limit is not None and data.fraction is not None:
        faults.append("data.fraction: give either train_limit or fraction, not both")
    return faults


def _token_faults(recipe: Recipe) -> list[str]:
    distill, distilled = recipe.distill, "distilled" in recipe.model.name
    faults = []
    if distill.kind != "none" and distill.teacher is None:
        faults.append(f"distill.teacher: distill.kind = '{distill.kind}' needs a teacher")
    if distill.kind == "none" and distill.teacher is not None:
        faults.append("distill.kind: a teacher is given; choose 'hard' or 'soft'")
    if distill.kind != "none" and distill.through == "token" and not distilled:
        faults.append(
            f"model.name: '{recipe.model.name}' has no distillation token; take the _distilled_ "
            "form, or set distill.through = 'class'"
        )
    if recipe.model.two_class_tokens and (distill.kind != "none" or not distilled):
        faults.append("model.two_class_tokens: needs a _distilled_ model and no teacher")
    return faults
