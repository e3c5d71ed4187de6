"""Choose the images to score, of the run or of a dataset, and those to fit a temperature on."""

from dataclasses import dataclass
from pathlib import Path

from deit_transfer.analysis.class_groups import groups_by_name
from deit_transfer.data.catalog import load_dataset, offers_options
from deit_transfer.data.dataset import ImageSet, Options, Split
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError, UsageError
from deit_transfer.evaluation.predictor import Predictor, in_classes_of
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.number_format import counted
from deit_transfer.runs.folder import RECIPE_FILE
from deit_transfer.training.data_splits import DataSplits, display_name, load_splits

# fewer than these leave a temperature uncertain by a tenth and more: a guess
FEW_TO_FIT_ON = 200


@dataclass(frozen=True, kw_only=True)
class EvalSplit:
    """A split to score, labeled as the network numbers its classes, and its dataset."""

    name: str
    title: str
    images: ImageSet
    split: Split
    notes: tuple[str, ...]
    group_of_class: tuple[str, ...]


def splits_of_run(
    predictor: Predictor, *, named: bool, needed: bool, stop: StopSignals
) -> DataSplits | None:
    """Load the run's own images, where they are scored or a temperature is fitted on them."""
    folder = predictor.subject.folder
    if folder is None:
        if not named:
            raise UsageError(
                f"{predictor.text} is no run, so it has no test images of its own",
                hint=f"Name a dataset: deit-transfer evaluate {predictor.text} imagenet",
            )
        return None
    if named and not needed:
        return None
    # --data-dir says where the datasets lie that were named, not where the run's own does
    recipe: Recipe = load_recipe(str(folder.path / RECIPE_FILE)) if named else predictor.recipe
    splits = load_splits(recipe.data, progress=lambda _done, _total: stop.check())
    if splits.class_names != predictor.class_names:
        raise DataError(
            f"{splits.name} has other classes than when {predictor.text} was trained on it",
            hint="Restore the dataset, or name another one to score",
        )
    return splits


def split_of_run(predictor: Predictor, own: DataSplits | None, split: Split) -> EvalSplit:
    assert own is not None  # `splits_of_run` has refused a network without
    images = {"train": own.train, "val": own.val, "test": own.test}[split]
    if images is None:
        raise DataError(
            f"{predictor.text} held no validation images back",
            hint="Leave --split out to score test",
        )
    dataset = own.dataset
    return EvalSplit(
        name=dataset.info.name,
        title=own.name,
        images=images,
        split=split,
        notes=tuple(dataset.notes),
        group_of_class=dataset.groups,
    )


def named_split(
    predictor: Predictor, name: str, split: Split, own: DataSplits | None, stop: StopSignals
) -> EvalSplit:
    settings = predictor.recipe.data
    # what the run was taught to be a class is what it can be asked about
    options = Options(rank=settings.rank, class_order=settings.class_order)
    dataset = load_dataset(
        name,
        data_dir=Path(settings.data_dir) if settings.data_dir else None,
        for_evaluation=True,
        options=options if offers_options(name) else None,
        progress=lambda _done, _total: stop.check(),
    )
    known = dict(zip(own.class_names, own.dataset.groups, strict=False)) if own is not None else {}
    known |= dict(zip(dataset.class_names, dataset.groups, strict=False))
    return EvalSplit(
        name=dataset.info.name,
        title=display_name(dataset),
        images=in_classes_of(predictor.class_names, dataset, split=split),
        split=split,
        notes=tuple(dataset.notes),
        group_of_class=groups_by_name(predictor.class_names, known),
    )


def fitting_images(own: DataSplits | None, *, split: Split, notes: list[str]) -> ImageSet | None:
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
