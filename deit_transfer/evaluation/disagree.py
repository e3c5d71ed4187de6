"""Compare the decisions of several classifiers on the same images (Table 4).

Images are joined by their ids and classes by their names; a place in a list means nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.analysis.disagreement import Decisions, disagreement
from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.dataset import Dataset, Progress
from deit_transfer.data.fingerprint import label_fingerprint
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError, UsageError
from deit_transfer.evaluation.predictor import open_predictor, predictor_at
from deit_transfer.paper.values import paper_matrix
from deit_transfer.report.disagreement import heat_map_png
from deit_transfer.report.plot_style import check_png
from deit_transfer.runs.folder import (
    CLASSES_FILE,
    DATA_FILE,
    PREDICTIONS_FILE,
    RESULT_FILE,
    RunFolder,
    open_run,
)
from deit_transfer.runs.predictions import (
    UNDECIDED,
    StoredPredictions,
    image_contents,
    join_predictions,
    predictions_to_store,
    read_predictions,
)
from deit_transfer.training.data_splits import display_name


@dataclass(frozen=True, kw_only=True)
class NamedPredictions:
    """Predictions, the class names of their columns, and those of the labels."""

    name: str
    answers: StoredPredictions
    class_names: tuple[str, ...]
    label_names: tuple[str, ...]
    dataset: str
    fresh: bool
    notes: tuple[str, ...] = ()


def disagree(
    subjects: Sequence[str],
    *,
    path: Path,
    dataset_name: str | None = None,
    data_dir: Path | None = None,
    device_name: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare the decisions of runs and networks, draw them, and return the object.

    Args:
        subjects: Runs' folders; with a dataset also networks, as `open_model` reads them. A
            distilled network is three classifiers: its class head, its distillation head, both.
        path: The PNG to write, or to replace where it is a figure of ours.
        dataset_name: Whose test images all are asked about; None takes the predictions that
            the runs stored when they ended.
        data_dir: Folder that holds the dataset.
        device_name: Where networks are asked; None takes what a run's recipe says.
        progress: Called while a network is asked, with (images done, images).

    Raises:
        UsageError: One is given twice, one alone has nothing to differ from, a network has no
            stored predictions and no dataset is named, or the PNG would replace another file.
        DataError: The images or the classes of two of them do not match.
    """
    names = _names(subjects)
    check_png(path)
    dataset = None
    if dataset_name is not None:
        dataset = load_dataset(
            dataset_name, data_dir=data_dir, for_evaluation=True, progress=progress
        )
        if "test" not in dataset.splits:
            raise DataError(f"{dataset.info.title} has no test images", hint="Name another one")
    scored = [
        _answers(name, text, dataset, device_name, progress, alone=len(names) == 1)
        for name, text in zip(names, subjects, strict=True)
    ]
    notes = _notes(scored)
    classifiers, num_unreadable = _decisions(scored, dataset)
    if num_unreadable:
        notes.append(f"{num_unreadable} images could not be read; they count as wrong for all")
    facts = disagreement(classifiers)
    if any(len(one.answers.ids) != facts["num_images"] for one in scored):
        counts = ", ".join(f"{one.name} {len(one.answers.ids):,}" for one in scored)
        notes.append(f"compared on the images that all could read; in all: {counts}")
    title = scored[0].dataset if dataset is None else display_name(dataset)
    heat_map_png(path, facts, dataset=title, paper=paper_matrix())
    return {"dataset": title, **facts, "notes": notes, "figure": str(path)}


def _names(subjects: Sequence[str]) -> list[str]:
    """Name each by its folder or model; by the whole argument where two would have one name."""
    places = [str(Path(text).resolve()) if Path(text).is_dir() else text for text in subjects]
    short = [
        Path(text).resolve().name if Path(text).is_dir() else text.partition("=")[0]
        for text in subjects
    ]
    for text, times in Counter(places).items():
        if times > 1:
            raise UsageError(
                f"{text} is listed {times} times",
                hint="Name each run or network once",
            )
    alike = {name for name, times in Counter(short).items() if times > 1}
    return [text if name in alike else name for name, text in zip(short, subjects, strict=True)]


def _answers(
    name: str,
    text: str,
    dataset: Dataset | None,
    device_name: str | None,
    progress: Progress | None,
    *,
    alone: bool,
) -> NamedPredictions:
    """Return the stored predictions of a run, if they are on these images; else predict."""
    folder = open_run(text) if Path(text).is_dir() else None
    if folder is not None and (dataset is None or _covers(folder, dataset)):
        stored = _stored(name, folder)
        _check_company(name, stored.answers.heads, alone=alone)
        return stored
    if dataset is None:
        raise UsageError(
            f"{text} is no run's folder, so it has no stored predictions",
            hint="Name the images to score it on: --on DATASET",
        )
    return _ask(name, text, dataset, device_name, progress, alone=alone)


def _check_company(name: str, heads: Sequence[str], *, alone: bool) -> None:
    """Refuse a single classifier; the heads of one distilled network do differ."""
    if alone and len(heads) == 1:
        raise UsageError(
            f"disagree needs at least two classifiers, got only {name}",
            hint="Name two runs or more; deit-transfer evaluate scores one",
        )


def _stored(name: str, folder: RunFolder) -> NamedPredictions:
    answers = read_predictions(folder.path / PREDICTIONS_FILE)
    class_names = folder.class_names()
    if len(class_names) != answers.class_logits.shape[1]:
        raise DataError(
            f"{folder} names {len(class_names)} classes for predictions of "
            f"{answers.class_logits.shape[1]}",
            hint=f"Its {CLASSES_FILE} is not the one that was written; copy the run again",
        )
    return NamedPredictions(
        name=name,
        answers=answers,
        class_names=class_names,
        label_names=class_names,
        dataset=str(folder.read_json(RESULT_FILE).get("dataset", "")),
        fresh=False,
    )


def _covers(folder: RunFolder, dataset: Dataset) -> bool:
    """Return whether a run was scored on this dataset's test images: names and content."""
    wanted = label_fingerprint(dataset.splits, class_names=dataset.class_names)
    predictions = folder.path / PREDICTIONS_FILE
    if folder.read_json(DATA_FILE).get("label_fingerprint") != wanted:
        return False
    if not predictions.is_file():
        return False
    stored, test = read_predictions(predictions), dataset.splits["test"]
    if set(test.ids) != set(stored.ids.tolist()):
        return False
    contents = stored.take(test.ids).contents
    return contents is None or bool((contents == image_contents(test)).all())


def _ask(
    name: str,
    text: str,
    dataset: Dataset,
    device_name: str | None,
    progress: Progress | None,
    *,
    alone: bool,
) -> NamedPredictions:
    overrides = {} if device_name is None else {"run.device": device_name}
    predictor = open_predictor(text, overrides=overrides)
    _check_company(name, predictor.heads, alone=alone)
    unknown = sorted(set(dataset.class_names) - set(predictor.class_names))
    if unknown:
        raise DataError(
            f"{name} does not know {len(unknown)} of the {len(dataset.class_names)} classes of "
            f"{display_name(dataset)}, such as {unknown[0]}",
            hint="Name a dataset whose classes all of them were trained on",
        )
    test, asked = dataset.splits["test"], predictor_at(predictor)
    with StopSignals(hint="") as stop:
        predictions = asked.predict(asked.batches(test, stop=stop), stop=stop, progress=progress)
    return NamedPredictions(
        name=name,
        answers=predictions_to_store(predictions, test),
        class_names=predictor.class_names,
        label_names=dataset.class_names,
        dataset=display_name(dataset),
        fresh=True,
        notes=predictor.notes,
    )


def _decisions(
    scored: Sequence[NamedPredictions], dataset: Dataset | None
) -> tuple[list[Decisions], int]:
    """Return every classifier's decisions on the shared images, and how many were unreadable."""
    known = dataset.class_names if dataset is not None else scored[0].label_names
    number = {name: place for place, name in enumerate(known)}
    for one in scored:
        for name in (*one.label_names, *one.class_names):
            number.setdefault(name, len(number))
    relabeled = [
        (one.name, replace(one.answers, labels=_codes(number, one.label_names)[one.answers.labels]))
        for one in scored
    ]
    joined = join_predictions(relabeled)
    classifiers = []
    for one, answers in zip(scored, joined, strict=True):
        codes = np.append(_codes(number, one.class_names), UNDECIDED)
        for head in answers.heads:
            classes = codes[answers.decisions(head)]  # (N,); the last code is that of UNDECIDED
            name = f"{one.name}:{head}" if len(answers.heads) > 1 else one.name
            right = _is_right(classes, answers, dataset, len(number))
            classifiers.append(Decisions(name=name, classes=classes, right=right))
    undecided = np.stack([one.classes == UNDECIDED for one in classifiers])
    return classifiers, int(undecided.all(axis=0).sum())


def _codes(number: dict[str, int], names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([number[name] for name in names], np.int64)


def _is_right(
    classes: NDArray[np.int64],
    answers: StoredPredictions,
    dataset: Dataset | None,
    num_classes: int,
) -> NDArray[np.bool_]:
    """Return which decisions are the label, or one of several right answers as in ReaL, (N,)."""
    sets = dataset.splits["test"].label_sets if dataset is not None else None
    if dataset is None or sets is None:
        return classes == answers.labels
    place = {name: index for index, name in enumerate(dataset.splits["test"].ids)}
    order = np.array([place[name] for name in answers.ids.tolist()], np.int64)
    accepted = sets.take(order).mask(num_classes)  # (N, K)
    return accepted[np.arange(len(classes)), classes] & (classes != UNDECIDED)


def _notes(scored: Sequence[NamedPredictions]) -> list[str]:
    """Return whose stored predictions were taken, who was asked, and what is to know of them."""
    stored = [one.name for one in scored if not one.fresh]
    fresh = [one.name for one in scored if one.fresh]
    notes = [f"predictions stored by the run: {', '.join(stored)}"] if stored else []
    notes += [f"scored now: {', '.join(fresh)}"] if fresh else []
    return notes + [f"{one.name}: {note}" for one in scored for note in one.notes]
