"""Own which images are scored, a run's own or a dataset's, and which a temperature is fitted on."""

from dataclasses import dataclass
from pathlib import Path

from deit_transfer.analysis.class_groups import groups_by_name
from deit_transfer.data.catalog import load_dataset, offers_options
from deit_transfer.data.dataset import ImageSet, Options, Split
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError, UsageError
from deit_transfer.evaluation.predictor import Scorer, in_classes_of
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.number_format import counted
from deit_transfer.runs.folder import RECIPE_FILE
from deit_transfer.training.data_splits import Inputs, load_inputs, spoken_name

# fewer than these leave a temperature uncertain by a tenth and more: a guess
FEW_TO_FIT_ON = 200


@dataclass(frozen=True, kw_only=True)
class Target:
    """Hold a split to score, labelled as the network numbers its classes, and whose it is."""

    name: str
    title: str
    images: ImageSet
    split: Split
    notes: tuple[str, ...]
    group_of_class: tuple[str, ...]


def own_inputs(scorer: Scorer, *, named: bool, needed: bool, stop: StopSignals) -> Inputs | None:
    """Load the run's own images, where they are scored or a temperature is fitted on them."""
    folder = scorer.subject.folder
    if folder is None:
        if not named:
            raise UsageError(
                f"{scorer.text} is no run, so it has no test images of its own",
                hint=f"Name a dataset: deit-transfer evaluate {scorer.text} imagenet",
            )
        return None
    if named and not needed:
        return None
    # --data-dir says where the datasets lie that were named, not where the run's own does
    recipe: Recipe = load_recipe(str(folder.path / RECIPE_FILE)) if named else scorer.recipe
    inputs = load_inputs(recipe.data, progress=lambda _done, _total: stop.check())
    if inputs.class_names != scorer.class_names:
        raise DataError(
            f"{inputs.name} has other classes than when {scorer.text} was trained on it",
            hint="Restore the dataset, or name another one to score",
        )
    return inputs


def own_target(scorer: Scorer, own: Inputs | None, split: Split) -> Target:
    assert own is not None  # `own_inputs` has refused a network without
    images = {"train": own.train, "val": own.val, "test": own.test}[split]
    if images is None:
        raise DataError(
            f"{scorer.text} held no validation images back", hint="Leave --split out to score test"
        )
    dataset = own.dataset
    return Target(
        name=dataset.info.name,
        title=own.name,
        images=images,
        split=split,
        notes=tuple(dataset.notes),
        group_of_class=dataset.groups,
    )


def named_target(
    scorer: Scorer, name: str, split: Split, own: Inputs | None, stop: StopSignals
) -> Target:
    settings = scorer.recipe.data
    # what the run was taught to be a class is what it can be asked about
    options = Options(level=settings.level, class_order=settings.class_order)
    dataset = load_dataset(
        name,
        data_dir=Path(settings.data_dir) if settings.data_dir else None,
        for_evaluation=True,
        options=options if offers_options(name) else None,
        progress=lambda _done, _total: stop.check(),
    )
    known = dict(zip(own.class_names, own.dataset.groups, strict=False)) if own is not None else {}
    known |= dict(zip(dataset.class_names, dataset.groups, strict=False))
    return Target(
        name=dataset.info.name,
        title=spoken_name(dataset),
        images=in_classes_of(scorer.class_names, dataset, split=split),
        split=split,
        notes=tuple(dataset.notes),
        group_of_class=groups_by_name(scorer.class_names, known),
    )


def fitting_images(own: Inputs | None, *, split: Split, notes: list[str]) -> ImageSet | None:
    """Return the images that a temperature is fitted on; where there are none, note why."""
    if own is None:
        notes.append("no temperature is fitted: a network by name has no validation images")
    elif own.val is None:
        notes.append("no temperature is fitted: the run held no validation images back")
    elif split == "val":
        notes.append("no temperature is fitted: it would be measured on the images it is fitted on")
    else:
        if len(own.val) < FEW_TO_FIT_ON:
            notes.append(
                f"the temperature is fitted on {counted(len(own.val), 'validation image')} only: "
                "another draw of so few may give quite another one"
            )
        return own.val
    return None
