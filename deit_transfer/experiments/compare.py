"""Compare training from scratch and from pretrained weights on the same data and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deit_transfer.analysis.comparison import ArmRuns, build_comparison
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import UsageError
from deit_transfer.experiments.arms import (
    FINETUNE,
    SCRATCH,
    Arm,
    Budget,
    check_arm_names,
    choose_arms,
    with_equal_images,
)
from deit_transfer.experiments.label_fractions import (
    as_size,
    at_fraction,
    check_fractions,
    has_own_val,
    label_efficiency,
    limit_label,
    num_labels,
    pooled,
    validation_labels,
)
from deit_transfer.experiments.outputs import write_comparison
from deit_transfer.experiments.preflight import (
    GO_ON,
    Preflight,
    check_all,
    read_pretrained_weights,
    shared_splits,
)
from deit_transfer.experiments.probe_arm import probe_or_reuse
from deit_transfer.experiments.soup import SOUP, make_soup
from deit_transfer.experiments.train_or_reuse import (
    TrainedRun,
    test_predictions,
    train_or_reuse,
    with_seed,
)
from deit_transfer.models.pretrained import NONE, PretrainedWeights
from deit_transfer.paper.values import paper_top1
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import refuse_taken_name
from deit_transfer.training.callbacks import Callbacks, NoCallbacks
from deit_transfer.training.data_splits import DataSplits
from deit_transfer.training.label_overlap import label_overlap_notes


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What is compared, and how often.

    Args:
        start: What the fine-tuned arms start from.
        seeds: Runs per arm; all arms use the seeds from the recipe's on.
        arms: scratch, finetune, distilled, probe, and recipes by name; none takes scratch and
            finetune, and with a teacher distilled.
        fractions: Shares of the labeled images, in (0, 1]; none takes all of them. The
            comparison is of the largest; the others add `label_efficiency`.
        budget: `recipe` gives each arm its own recipe's length; `equal-images` gives all arms
            the images of the fine-tuned one.
        recipe_names: Recipe by arm; the default recipes where not given.
        overrides: Recipe settings for all arms, by dotted location; those of a teacher are for
            the arms that learn from one.
        cautions: What a reader must know to judge the figures.
        start_name: What the start is called in tables; None takes its name or file name.
        soup: Average the fine-tuned runs of two seeds or more into one more arm.
    """

    start: str
    seeds: int
    arms: Sequence[str] = ()
    fractions: Sequence[float] = ()
    budget: Budget = "recipe"
    recipe_names: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    cautions: Sequence[str] = ()
    start_name: str | None = None
    soup: bool = True

    @property
    def has_teacher(self) -> bool:
        return any(key.startswith("distill.") for key in self.overrides)


@dataclass(frozen=True, kw_only=True)
class SizePlan:
    """One share of the labels: its images, and the arms that train on them."""

    fraction: float
    splits: DataSplits
    arms: Sequence[Arm]


def compare(
    dataset: str,
    settings: ComparisonSettings,
    *,
    out: Path,
    name: str | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Train every arm with every seed at every share of the labels; return the comparison object.

    Args:
        dataset: Catalog name or folder.
        settings: What is compared.
        out: Folder that holds the runs.
        name: Folder of the comparison below `out`; None makes one.
        callbacks: What is shown while it trains.

    Raises:
        UsageError: The name is taken, or what is asked for contradicts itself.
        DataError: The arms would not see the same data.
    """
    callbacks, budget = callbacks or NoCallbacks(), settings.budget
    refuse_taken_name(out, name, what="comparison")
    shares = check_fractions(settings.fractions, settings.overrides)

    # All that can be wrong is found before anything is trained
    chosen = choose_arms(
        check_arm_names(settings.arms, taught=settings.has_teacher),
        dataset,
        start=settings.start,
        recipe_names=settings.recipe_names,
        overrides=settings.overrides,
    )
    with StopSignals(before_exit=callbacks.leave, hint=GO_ON) as stop:
        plans = _plan_sizes(chosen, shares, budget, stop=stop, callbacks=callbacks)
        recipes = _recipes(plans[-1].arms)
        starts = check_all(
            recipes, plans[-1].splits, stop=stop, known=read_pretrained_weights(recipes)
        )

    # Every size, every seed, every arm, and the average of the fine-tuned runs
    trained: list[dict[str, list[TrainedRun]]] = []
    for plan in plans:
        size = f", {100 * plan.fraction:g}% of the labels" if len(plans) > 1 else ""
        ready = Preflight(plan.splits, starts)
        runs = _train_size(
            plan, ready, seeds=settings.seeds, out=out, size=size, callbacks=callbacks
        )
        if settings.soup and len(runs.get(FINETUNE, ())) > 1:
            runs[SOUP] = [_make_soup(runs[FINETUNE], plan, out=out, size=size, callbacks=callbacks)]
        trained.append(runs)

    # What they say: the largest size as a comparison of its own, all of them as curves
    comparison = _read_off(
        plans,
        trained,
        leading=_leading(chosen),
        start=settings.start_name or _start_name(chosen),
        labels=[
            *settings.cautions,
            *_cautions(plans, chosen),
            *_known_labels(chosen, starts, plans),
        ],
        budget=budget,
    )
    return write_comparison(
        comparison,
        runs=trained[-1],
        recipes={arm.name: arm.recipe.title for arm in chosen if not arm.is_probe},
        out=out,
        name=name,
    )


def _plan_sizes(
    arms: Sequence[Arm],
    shares: Sequence[float],
    budget: Budget,
    *,
    stop: StopSignals,
    callbacks: Callbacks,
) -> list[SizePlan]:
    """Load the images of every size, and settle how long each arm is trained on them."""
    plans = []
    for fraction in shares:
        sized = [arm.with_recipe(data=at_fraction(arm.recipe, fraction).data) for arm in arms]
        splits = shared_splits(_recipes(sized), stop=stop, callbacks=callbacks)
        if len(shares) > 1 and has_own_val(sized[0].recipe, splits):
            sized = [arm.with_recipe(data=pooled(arm.recipe).data) for arm in sized]
            splits = shared_splits(_recipes(sized), stop=stop, callbacks=callbacks)
        if budget == "equal-images":
            sized = with_equal_images(sized, len(splits.train))
        plans.append(SizePlan(fraction=fraction, splits=splits, arms=sized))
    counts = [num_labels(plan.splits) for plan in plans]
    for plan, fewer, count in zip(plans[1:], counts, counts[1:], strict=False):
        if count == fewer:
            raise UsageError(
                f"{100 * plan.fraction:g}% and the share before it are both {count} labeled images",
                hint="Take shares that lie further apart",
            )
    return plans


def _train_size(
    plan: SizePlan,
    ready: Preflight,
    *,
    seeds: int,
    out: Path,
    size: str,
    callbacks: Callbacks,
) -> dict[str, list[TrainedRun]]:
    """Return the finished runs of every arm, in order of seeds."""
    trained: dict[str, list[TrainedRun]] = {arm.name: [] for arm in plan.arms}
    first_seed = _leading(plan.arms).recipe.run.seed
    for seed in range(first_seed, first_seed + seeds):
        for arm in plan.arms:
            if arm.is_probe and trained[arm.name]:
                continue  # nothing in it depends on the seed
            of_seeds = (
                "" if arm.is_probe else f", seed {seed} (run {seed - first_seed + 1} of {seeds})"
            )
            callbacks.note(f"\n{arm.name}{of_seeds}{size}")
            do = probe_or_reuse if arm.is_probe else train_or_reuse
            recipe = with_seed(arm.recipe, seed)
            start = ready.start_of(recipe)
            done = do(recipe, start, ready.splits, out=out, callbacks=callbacks)
            trained[arm.name].append(done)
    return trained


def _make_soup(
    members: Sequence[TrainedRun], plan: SizePlan, *, out: Path, size: str, callbacks: Callbacks
) -> TrainedRun:
    """Average the weights of the fine-tuned runs of one size."""
    recipe = next(arm.recipe for arm in plan.arms if arm.name == FINETUNE)
    callbacks.note(f"\n{SOUP} of the {len(members)} fine-tuned runs{size}")
    return make_soup(members, recipe, plan.splits, out=out, callbacks=callbacks)


def _read_off(
    plans: Sequence[SizePlan],
    trained: Sequence[Mapping[str, Sequence[TrainedRun]]],
    *,
    leading: Arm,
    start: str,
    labels: Sequence[str],
    budget: Budget,
) -> dict[str, Any]:
    """Return the comparison object of the runs of every size."""
    measured = [
        [_arm_runs(arm, runs, plan) for arm, runs in by_arm.items()]
        for plan, by_arm in zip(plans, trained, strict=True)
    ]
    largest = plans[-1].splits
    comparison = build_comparison(
        arms=measured[-1],
        dataset=largest.name,
        model=leading.recipe.model.name,
        start=start,
        budget=budget,
        labels=labels,
    )
    comparison |= {"counts": largest.counts, "data_fingerprint": largest.fingerprint}
    if len(plans) > 1:
        comparison["label_efficiency"] = _efficiency(plans, measured)
    return comparison


def _recipes(arms: Sequence[Arm]) -> dict[str, Recipe]:
    return {arm.name: arm.recipe for arm in arms}


def _leading(arms: Sequence[Arm]) -> Arm:
    """Return the arm whose model, start and seed speak for the comparison."""
    return next((arm for arm in arms if arm.name == FINETUNE), arms[0])


def _start_name(arms: Sequence[Arm]) -> str:
    """Return what the first arm that starts from weights starts from; none where no arm does."""
    starts = [arm.recipe.model.pretrained for arm in arms]
    return Path(next((start for start in starts if start != NONE), NONE)).name


def _known_labels(
    arms: Sequence[Arm],
    starts: Mapping[tuple[str, str], PretrainedWeights],
    plans: Sequence[SizePlan],
) -> list[str]:
    """Return cautions on starts that have seen labels of these images."""
    ready = Preflight(plans[-1].splits, starts)
    named = {arm.recipe.model.pretrained: ready.start_of(arm.recipe) for arm in arms}
    return [
        note
        for start, weights in named.items()
        for note in label_overlap_notes(start, weights, ready.splits)
    ]


def _arm_runs(name: str, runs: Sequence[TrainedRun], plan: SizePlan) -> ArmRuns:
    souped = name == SOUP
    arm = next(arm for arm in plan.arms if arm.name == (FINETUNE if souped else name))
    model = arm.recipe.model
    resolution = model.resolution or runs[0].result["resolution"]
    # the paper has neither probes nor soups
    paper = (
        None
        if souped or arm.is_probe
        else paper_top1(
            plan.splits.dataset.info.name, model.name, arm.recipe.mode, resolution=resolution
        )
    )
    return ArmRuns(
        arm=name,
        results=[run.result for run in runs],
        correct=[test_predictions(run.folder, plan.splits) for run in runs],
        paper_top1=paper.top1 if paper is not None else None,
        paper_label=paper.label if paper is not None else "",
        reused=sum(run.reused for run in runs),
        soup_of=FINETUNE if souped else "",
        facts={
            "model": model.name,
            "resolution": resolution,
            "recipe": None if arm.is_probe else arm.recipe.title,
        },
    )


def _cautions(plans: Sequence[SizePlan], arms: Sequence[Arm]) -> list[str]:
    notes = limit_label(plans[-1].arms[0].recipe, plans[-1].splits)
    notes += [note for arm in arms for note in arm.notes]
    if len(plans) > 1:
        notes += validation_labels(
            [(plan.fraction, plan.arms[0].recipe, plan.splits) for plan in plans]
        )
    return notes


def _efficiency(plans: Sequence[SizePlan], measured: Sequence[Sequence[ArmRuns]]) -> dict[str, Any]:
    sizes = [
        as_size(plan.fraction, num_labels(plan.splits), arms)
        for plan, arms in zip(plans, measured, strict=True)
    ]
    names = [arm.name for arm in plans[0].arms]
    facts = [
        {"counts": plan.splits.counts, "data_fingerprint": plan.splits.fingerprint}
        for plan in plans
    ]
    baseline = SCRATCH if SCRATCH in names else names[0]
    return label_efficiency(sizes, facts, baseline=baseline)
