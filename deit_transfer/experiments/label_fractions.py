"""Fractions of the labels at which a comparison is made, the same for all arms."""

from collections.abc import Mapping, Sequence
from typing import Any

from deit_transfer.analysis.comparison import ArmRuns, build_comparison
from deit_transfer.analysis.label_efficiency import Size, exchange_rates
from deit_transfer.errors import UsageError
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.label_efficiency import exchange_sentences, share_text
from deit_transfer.training.data_splits import DataSplits

FEW_VALIDATION_IMAGES = 50


def check_fractions(fractions: Sequence[float], overrides: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the shares of the labels in ascending order; (1.0,) where none was asked for.

    Raises:
        UsageError: A share is not in (0, 1] or given twice, or `--fraction` is given as well.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UsageError(
                f"--fractions takes shares above 0 and up to 1, not {fraction:g}",
                hint="For example --fractions 0.01,0.05,0.1,0.25,1",
            )
        if list(fractions).count(fraction) > 1:
            raise UsageError(
                f"--fractions has {fraction:g} twice", hint="Name each share of the labels once"
            )
    if fractions and "data.fraction" in overrides:
        raise UsageError(
            "--fraction and --fractions contradict each other",
            hint="Leave --fraction out; --train-limit may stay, the shares are then of that many",
        )
    return tuple(sorted(fractions)) or (1.0,)


def at_fraction(recipe: Recipe, fraction: float) -> Recipe:
    """Return the recipe with a share of the labeled images that it would use.

    All of them leave the recipe as it is, so that runs of other commands are found again.
    """
    data = recipe.data
    if fraction == 1:
        return recipe
    if data.train_limit is not None:
        change: dict[str, Any] = {"train_limit": round(fraction * data.train_limit)}
    else:
        change = {"fraction": fraction * (data.fraction or 1.0)}
    return recipe.model_copy(update={"data": data.model_copy(update=change)})


def has_own_val(recipe: Recipe, splits: DataSplits) -> bool:
    """Return whether the dataset brings its own validation images."""
    return recipe.data.train_on == "train" and "val" in splits.dataset.splits


def pooled(recipe: Recipe) -> Recipe:
    """Return the recipe with the dataset's own validation images among those that are shared out.

    Else one percent of the labels would be chosen on with all validation images.
    """
    data = recipe.data.model_copy(update={"train_on": "train+val"})
    return recipe.model_copy(update={"data": data})


def num_labels(splits: DataSplits) -> int:
    """Return the labeled images that a size uses, those for validation counted in."""
    return len(splits.train) + len(splits.val or ())


def limit_label(recipe: Recipe, splits: DataSplits) -> list[str]:
    """Return a caution where only some of the labeled images were used."""
    if recipe.data.train_limit is None and recipe.data.fraction is None:
        return []
    used = num_labels(splits)
    return [f"only {used:,} labeled images were used, those for validation counted in"]


def validation_labels(sizes: Sequence[tuple[float, Recipe, DataSplits]]) -> list[str]:
    """Return cautions on what chooses the epoch, where there are several sizes."""
    labels = []
    if any("val" in splits.dataset.splits for _, _, splits in sizes):
        labels.append(
            "the dataset's own validation images are shared out with those for training: every "
            "size holds its part of both"
        )
    few = [
        f"{len(splits.val)} at {share_text(fraction)}"
        for fraction, _, splits in sizes
        if splits.select == "val"
        and splits.val is not None
        and len(splits.val) < FEW_VALIDATION_IMAGES
    ]
    if few:
        labels.append(f"few validation images choose the epoch: {', '.join(few)} of the labels")
    return labels


def label_efficiency(
    sizes: Sequence[Size], facts: Sequence[Mapping[str, Any]], *, baseline: str
) -> dict[str, Any]:
    """Return what each arm makes of how many labels, and what they are worth to another arm.

    Args:
        sizes: In ascending order of labels.
        facts: Counts and fingerprint of each size.
        baseline: The arm that the others are held against.
    """
    points = []
    for size, known in zip(sizes, facts, strict=True):
        compared = build_comparison(
            arms=list(size.arms.values()), dataset="", model="", start="", budget=""
        )
        kept = {key: compared[key] for key in ("arms", "differences")}
        points.append({"fraction": size.fraction, "labels": size.labels, **known, **kept})
    rates = exchange_rates(sizes, baseline=baseline)
    return {
        "baseline": baseline,
        "points": points,
        "exchange": rates,
        "sentences": exchange_sentences(rates),
    }


def as_size(fraction: float, labels: int, arms: Sequence[ArmRuns]) -> Size:
    """Return a size with its arms by name."""
    return Size(fraction=fraction, labels=labels, arms={arm.arm: arm for arm in arms})
