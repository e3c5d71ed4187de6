"""Table 4 with our runs beside it: a distilled network, its teacher, and its plain twin."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deit_transfer.errors import DataError
from deit_transfer.models.variants import distilled_form
from deit_transfer.paper.cells import Commands, Filled, TableCell, TableRow
from deit_transfer.paper.commands import TEACHER, Writer
from deit_transfer.paper.evidence import FoundRun, FoundRuns, dataset_title, run_label
from deit_transfer.paper.values import TABLES
from deit_transfer.runs.folder import PREDICTIONS_FILE
from deit_transfer.runs.predictions import StoredPredictions, join_predictions, read_predictions

TRUTH = "ground truth"
HEADS = {"distilled, class": "class", "distilled, distill": "distill", "distilled, both": "joint"}
Trio = dict[str, FoundRun]  # of convnet, DeiT, distilled: those that were found


def fill_table4(found: FoundRuns) -> Filled:
    """Put the decisions that runs stored beside Table 4.

    The distilled run is taken that has its teacher and its plain twin with it, or most of them.
    """
    trio = _choose(found.runs)
    commands = _commands(trio, found)
    rates, num_images = _rates(trio)
    label = _label(trio, num_images)
    folders = tuple(str(run.folder) for run in trio.values())
    table = TABLES["table4"]
    rows = []
    for row, figures in table.rows.items():
        cells: list[TableCell | None] = []
        for column in table.columns:
            rate = rates.get((row, column))
            missing = dict.fromkeys(_role(name) for name in (row, column) if name != TRUTH)
            needed = tuple(chain.from_iterable(commands[role] for role in missing))
            if rate is None:
                cells.append(TableCell(commands=needed))
            else:
                cells.append(TableCell(value=rate, label=label, short=True, runs=folders))
        rows.append(TableRow(name=row, paper=figures, here=cells))
    notes = [f"here, {name} is {run_label([run])}" for name, run in trio.items()] + [
        "deit-transfer disagree RUN RUN... compares any runs, with intervals and tests"
    ]
    return rows, [], notes


def _role(name: str) -> str:
    return "distilled" if name in HEADS else name


def _choose(runs: Sequence[FoundRun]) -> Trio:
    """Return the most complete trio on one set of test images; the newest among equals."""
    stored = [run for run in runs if (run.folder.path / PREDICTIONS_FILE).is_file()]
    distilled = [r for r in stored if r.result.get("heads") and r.recipe.distill.kind != "none"]
    trios = [_trio(run, stored) for run in reversed(distilled)]
    return max(trios, key=len, default={})


def _trio(run: FoundRun, others: Sequence[FoundRun]) -> Trio:
    alike = [o for o in others if _images(o) == _images(run)]
    teacher = run.recipe.distill.teacher
    place = None if teacher is None else Path(teacher).resolve()
    teachers = [o for o in alike if o.folder.path.resolve() == place]
    twins = [
        other
        for other in alike
        if distilled_form(other.recipe.model.name) == run.recipe.model.name
        and other.resolution == run.resolution
        and other.recipe.mode == run.recipe.mode
    ]
    found = {"convnet": teachers[-1:], "DeiT": twins[-1:], "distilled": [run]}
    return {name: one[0] for name, one in found.items() if one}


def _images(run: FoundRun) -> tuple[object, ...]:
    """Return what must agree for two runs to have been asked about the same images."""
    return (run.dataset, run.result.get("num_test_images"), run.folder.class_names())


def _rates(trio: Trio) -> tuple[dict[tuple[str, str], float], int]:
    """Return the share of images on which each two of the table's names differ."""
    if not trio:
        return {}, 0
    named = [(n, read_predictions(r.folder.path / PREDICTIONS_FILE)) for n, r in trio.items()]
    try:
        joined = join_predictions(named)
    except DataError:  # their images are called by other names
        return {}, 0
    decided: dict[str, NDArray[np.int64]] = {TRUTH: joined[0].labels}
    for name, answers in zip(trio, joined, strict=True):
        decided |= _decisions(name, answers)
    rates = {(a, b): float(np.mean(decided[a] != decided[b])) for a in decided for b in decided}
    return rates, len(joined[0].ids)


def _decisions(name: str, answers: StoredPredictions) -> dict[str, NDArray[np.int64]]:
    if name != "distilled":
        return {name: answers.decisions()}
    return {row: answers.decisions(head) for row, head in HEADS.items()}


def _label(trio: Trio, num_images: int) -> str:
    if not trio:
        return ""
    dataset = dataset_title(next(iter(trio.values())).dataset)
    return f"{num_images:,} test images of {dataset}, one run each; not the paper's images"


def _commands(trio: Trio, found: FoundRuns) -> dict[str, Commands]:
    """Return what makes each run that is missing: the paper's own, or the twin of one found."""
    write = Writer(found.out)
    student = trio.get("distilled")
    if student is None:
        return {
            "convnet": write.once(
                "teacher fit imagenet --model regnety_160", name="table4-convnet"
            ),
            "DeiT": write.once("pretrain imagenet --recipe pretrain/deit_base", name="table4-deit"),
            "distilled": write.once(
                "pretrain imagenet --recipe pretrain/deit_base_distilled "
                f"--teacher {write.folder('table4-convnet')}",
                name="table4-distilled",
            ),
        }
    recipe = student.recipe
    dataset = recipe.data.dataset
    twin = recipe.model.name.replace("_distilled", "")
    start = f" --from {recipe.model.pretrained}" if recipe.mode == "finetune" else ""
    limit = recipe.data.train_limit
    limited = "" if limit is None else f" --train-limit {limit}"
    plain = (
        f"{recipe.mode} {dataset}{start} --model {twin} --resolution {student.resolution} "
        f"--epochs {recipe.schedule.epochs}{limited}"
    )
    return {
        "convnet": write.once(f"teacher fit {dataset} --model {TEACHER}{limited}", name="teacher"),
        "DeiT": write.once(plain, name=f"{student.folder.path.name}-plain"),
        "distilled": (),
    }
