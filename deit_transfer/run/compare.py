"""Own the comparison: the same data and seeds from scratch and from pretrained weights."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deit_transfer.analysis.comparison import ArmRuns, build_comparison
from deit_transfer.errors import DataError, UsageError
from deit_transfer.models.start import StartWeights, read_start
from deit_transfer.recipe.schema import Mode, Recipe
from deit_transfer.report.figures import Series, curves_png
from deit_transfer.report.markdown import comparison_markdown
from deit_transfer.report.paper_figures import paper_top1
from deit_transfer.run import assemble
from deit_transfer.run.choose import choose_recipe, distilled_form
from deit_transfer.run.claim import find_by_key, run_key
from deit_transfer.run.environment import describe_environment
from deit_transfer.run.inputs import Inputs, load_inputs
from deit_transfer.run.observer import Observer, Silent
from deit_transfer.run.stored import read_predictions
from deit_transfer.run.train import train
from deit_transfer.run.workdir import (
    PREDICTIONS_FILE,
    RESULT_FILE,
    RunFolder,
    create_numbered_folder,
    create_run_folder,
)

COMPARISON_FILE = "comparison.json"
FIGURE_FILE = "curves.png"
REPORT_FILE = "report.md"
GO_ON_COMPARING = "run the same command again to go on; what is finished is reused"
Budget = Literal["recipe", "equal-images"]
# the mode of each arm; `distilled` is the fine-tuned one that also learns from a teacher
ARMS: dict[str, Mode] = {"scratch": "scratch", "finetune": "finetune"}
DISTILLED_ARM: dict[str, Mode] = {"distilled": "finetune"}


@dataclass(frozen=True)
class Trained:
    """Hold one finished run of an arm."""

    folder: RunFolder
    result: dict[str, Any]
    reused: bool


def compare(
    dataset: str,
    *,
    start: str,
    seeds: int,
    out: Path,
    name: str | None = None,
    budget: Budget = "recipe",
    recipe_names: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
    start_name: str | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Train every arm with every seed, and return the comparison object.

    Args:
        dataset: Catalogue name or folder.
        start: What the fine-tuned arm starts from.
        seeds: Runs per arm; both arms use the seeds from the recipe's on.
        out: Folder that holds the runs.
        name: Folder of the comparison below `out`; None makes one.
        budget: `recipe` gives each arm its own recipe's length; `equal-images` gives all arms
            the images of the fine-tuned one.
        recipe_names: Recipe by arm; the default recipes where not given.
        overrides: Recipe settings for all arms, by dotted location; those of a teacher are for
            a third arm, `distilled`, alone.
        labels: What a reader must know to judge the figures.
        start_name: What the start is called in tables; None takes its name or file name.
        observer: Who is told what happens.

    Raises:
        UsageError: The name is taken, or the budgets contradict each other.
        DataError: The arms would not see the same data.
    """
    observer = observer or Silent()
    if name is not None and (out / name).exists():
        raise UsageError(
            f"{out / name} exists already", hint="Give the new comparison another --name"
        )
    teaching = {key for key in overrides or {} if key.startswith("distil.")}
    untaught = {key: value for key, value in (overrides or {}).items() if key not in teaching}
    recipes = {
        arm: choose_recipe(
            mode,
            dataset,
            recipe_name=(recipe_names or {}).get(arm),
            start=start if mode == "finetune" else None,
            overrides=_taught(overrides or {}) if arm in DISTILLED_ARM else untaught,
        )
        for arm, mode in (ARMS | DISTILLED_ARM if teaching else ARMS).items()
    }
    inputs = _shared_inputs(recipes)
    if budget == "equal-images":
        recipes = _equal_images(recipes, len(inputs.train))
    # before anything is trained: a start that cannot be read ends the comparison here
    starts = {
        arm: read_start(recipe.model.start, model_name=recipe.model.name)
        for arm, recipe in recipes.items()
    }
    trained: dict[str, list[Trained]] = {arm: [] for arm in recipes}
    first_seed = recipes["finetune"].run.seed
    for seed in range(first_seed, first_seed + seeds):
        for arm, recipe in recipes.items():
            observer.note(f"\n{arm}, seed {seed} (run {seed - first_seed + 1} of {seeds})")
            seeded = _with_seed(recipe, seed)
            trained[arm].append(_train_or_reuse(seeded, starts[arm], out, inputs, observer))
    comparison = build_comparison(
        arms=[_arm(arm, runs, recipes[arm], inputs) for arm, runs in trained.items()],
        dataset=inputs.name,
        model=recipes["finetune"].model.name,
        start=start_name or Path(recipes["finetune"].model.start).name,
        budget=budget,
        labels=[*labels, *_limit_label(recipes["finetune"], inputs)],
    )
    return _write(comparison, trained, inputs, recipes, out, name)


def _taught(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the distilled arm: a model that was named is taken distilled."""
    model = overrides.get("model.name")
    plain = model is not None and "distilled" not in model
    if not plain or overrides.get("distil.through") == "class":
        return dict(overrides)
    return {**overrides, "model.name": distilled_form(str(model))}


def _shared_inputs(recipes: Mapping[str, Recipe]) -> Inputs:
    """Load the data once; every arm's settings must describe the same images and splits."""
    settings = {arm: recipe.data for arm, recipe in recipes.items()}
    loaded = {arm: load_inputs(data) for arm, data in settings.items()}
    first = next(iter(loaded.values()))
    for arm, inputs in loaded.items():
        if inputs.fingerprint != first.fingerprint:
            raise DataError(
                f"The arms would not see the same data: {arm} has {inputs.counts}, "
                f"{next(iter(loaded))} has {first.counts}",
                hint="Give both recipes the same [data] section",
            )
    return first


def _equal_images(recipes: dict[str, Recipe], num_images: int) -> dict[str, Recipe]:
    if any(recipe.run.time_budget_minutes is not None for recipe in recipes.values()):
        raise UsageError(
            "--budget equal-images and --time-budget contradict each other",
            hint="Leave one of them out; --epochs shortens both arms",
        )
    plan = assemble.durations(recipes["finetune"], num_images=num_images)
    return {
        arm: recipe
        if arm == "finetune"
        else _with_images(recipe, plan.images_to_see, num_images=num_images)
        for arm, recipe in recipes.items()
    }


def _with_images(recipe: Recipe, images: int, *, num_images: int) -> Recipe:
    """Return the recipe with its schedule stretched or cut to see this many images.

    The warm-up and the stages of resolution keep their shares of the run. Where `images` makes
    no whole epochs, the last step's batch may overshoot.
    """
    plan = assemble.durations(recipe, num_images=num_images)
    whole_epochs, rest = divmod(images, plan.images_per_epoch)
    steps = whole_epochs * plan.steps_per_epoch + math.ceil(rest / plan.batch_size)
    length = {"min_steps": steps, "max_steps": steps}
    return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update=length)})


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})})


def _train_or_reuse(
    recipe: Recipe, start: StartWeights, out: Path, inputs: Inputs, observer: Observer
) -> Trained:
    key = run_key(recipe, inputs.fingerprint, start)
    if found := find_by_key(out, key, finished=True):
        observer.note(f"reused: {found} was trained with this recipe on this data")
        return Trained(found, found.read_json(RESULT_FILE), reused=True)
    # an arm that was cut off goes on where it stopped
    result = train(
        recipe, out=out, resume=True, inputs=inputs, observer=observer, go_on=GO_ON_COMPARING
    )
    return Trained(RunFolder(Path(result["run"])), result, reused=False)


def _arm(arm: str, runs: Sequence[Trained], recipe: Recipe, inputs: Inputs) -> ArmRuns:
    resolution = recipe.model.resolution or runs[0].result["resolution"]
    paper = paper_top1(
        inputs.dataset.info.name, recipe.model.name, recipe.mode, resolution=resolution
    )
    return ArmRuns(
        arm=arm,
        results=[run.result for run in runs],
        correct=[_correct(run.folder, inputs) for run in runs],
        paper_top1=paper.top1 if paper is not None else None,
        paper_label=paper.label if paper is not None else "",
        reused=sum(run.reused for run in runs),
    )


def _correct(folder: RunFolder, inputs: Inputs) -> NDArray[np.bool_]:
    """Return which test images a run got right, joined by image id, in the split's order."""
    stored = read_predictions(folder.path / PREDICTIONS_FILE)
    missing = sorted(set(inputs.test.ids) - set(stored.ids.tolist()))
    if missing:
        raise DataError(
            f"{folder} has no prediction for {len(missing)} test images, such as {missing[0]}",
            hint="Score it again, or remove the run so that it is trained anew",
        )
    stored = stored.take(inputs.test.ids)
    return stored.decisions() == stored.labels


def _write(
    comparison: dict[str, Any],
    trained: Mapping[str, Sequence[Trained]],
    inputs: Inputs,
    recipes: Mapping[str, Recipe],
    out: Path,
    name: str | None,
) -> dict[str, Any]:
    title = f"{comparison['dataset']}-{comparison['model']}"
    folder = (
        create_numbered_folder(out / "comparisons", title)
        if name is None
        else create_run_folder(out, name)
    )
    comparison = {
        **comparison,
        "folder": str(folder),
        "counts": inputs.counts,
        "data_fingerprint": inputs.fingerprint,
    }
    paper = {a["arm"]: a["paper_top1"] for a in comparison["arms"] if a["paper_top1"] is not None}
    curves_png(
        folder.path / FIGURE_FILE,
        [_series(arm, run) for arm, runs in trained.items() for run in runs],
        title=f"{comparison['model']} on {comparison['dataset']}",
        paper_top1=paper,
    )
    folder.write_json(COMPARISON_FILE, comparison)
    environment = describe_environment()
    packages = environment["packages"]
    page = comparison_markdown(
        comparison,
        command=shlex.join(["deit-transfer", *environment["command"][1:]]),
        figure=FIGURE_FILE,
        recipes={arm: recipe.title for arm, recipe in recipes.items()},
        environment={
            "machine": f"{environment['gpu'] or environment['processor']}",
            "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
        },
    )
    folder.write_text(REPORT_FILE, page)
    return comparison


def _limit_label(recipe: Recipe, inputs: Inputs) -> list[str]:
    data = recipe.data
    if data.train_limit is None and data.fraction is None:
        return []
    used = len(inputs.train) + (len(inputs.val) if inputs.val is not None else 0)
    return [f"only {used:,} labelled images were used, those for validation counted in"]


def _series(arm: str, run: Trained) -> Series:
    records = run.folder.metrics()
    return Series(
        label=f"{arm}, seed {run.result['seed']}",
        arm=arm,
        seed=run.result["seed"],
        epochs=[record["epoch"] for record in records],
        images_seen=[record["images_seen"] for record in records],
        val_top1=[record.get("val_top1") for record in records],
        train_loss=[record["loss"] for record in records],
        test_top1=run.result["top1"],
    )
