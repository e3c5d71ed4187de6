"""Compare on several datasets: one comparison each, together the paper's Table 6."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deit_transfer.errors import DeitTransferError, StoppedError, UsageError
from deit_transfer.experiments.arms import check_arm_names
from deit_transfer.experiments.compare import ComparisonSettings, compare
from deit_transfer.experiments.outputs import write_datasets
from deit_transfer.runs.folder import refuse_taken_name
from deit_transfer.training.callbacks import Callbacks, NoCallbacks


def compare_datasets(
    datasets: Sequence[str],
    settings: ComparisonSettings,
    *,
    out: Path,
    name: str | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Compare on one dataset after the other, and return the table object.

    A dataset that fails does not lose the others: it stands in `failed`, with `error`, `hint` and
    `exit_code`.

    Args:
        datasets: Catalog names or folders, each once.
        settings: What is compared on each of them.
        out: Folder that holds the runs.
        name: Folder of the table below `out`; None makes one. Each comparison makes its own.
        callbacks: What is shown while it trains.

    Raises:
        UsageError: A dataset is given twice, or what is asked for can be of no dataset.
        StoppedError: A signal arrived; what is finished is found again.
    """
    callbacks = callbacks or NoCallbacks()
    twice = sorted({one for one in datasets if list(datasets).count(one) > 1})
    if twice:
        raise UsageError(f"{twice[0]} is given twice", hint="Name each dataset once")
    refuse_taken_name(out, name, what="comparison")
    check_arm_names(settings.arms, taught=settings.has_teacher)

    comparisons: list[dict[str, Any]] = []
    columns: list[str] = []
    failed: list[dict[str, Any]] = []
    for place, dataset in enumerate(datasets):
        callbacks.note(f"\nDataset {place + 1} of {len(datasets)}: {dataset}")
        try:
            found = compare(dataset, settings, out=out, callbacks=callbacks)
        except StoppedError:
            raise
        except Exception as error:  # whatever it is, the other datasets are still wanted
            failed.append(_failure(dataset, error))
            callbacks.warn(f"{dataset} failed, the others go on: {failed[-1]['error']}")
        else:
            comparisons.append(found)
            columns.append(_column(found["dataset"], columns))
    table = {
        "datasets": columns,
        "rows": _rows(comparisons, columns),
        "comparisons": comparisons,
        "failed": failed,
        "labels": _labels(comparisons),
    }
    return write_datasets(table, out=out, name=name)


def _failure(dataset: str, error: Exception) -> dict[str, Any]:
    if not isinstance(error, DeitTransferError):
        error = DeitTransferError(f"unexpected {type(error).__name__}: {error}")
    return {
        "dataset": dataset,
        "error": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


def _column(name: str, taken: Sequence[str]) -> str:
    """Return a column's name; two folders of one name are told apart by a number."""
    number = sum(other == name or other.startswith(f"{name} (") for other in taken)
    return name if number == 0 else f"{name} ({number + 1})"


def _rows(comparisons: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each arm, and below it the paper's where it has any figure for it."""
    arms = dict.fromkeys(arm["arm"] for one in comparisons for arm in one["arms"])
    rows = []
    for name in arms:
        cells = {
            column: arm
            for column, one in zip(columns, comparisons, strict=True)
            for arm in one["arms"]
            if arm["arm"] == name
        }
        paper = {
            column: {"top1": arm["paper_top1"], "label": arm["paper_label"]}
            for column, arm in cells.items()
            if arm["paper_top1"] is not None
        }
        rows.append({"arm": name, "whose": "ours", "cells": cells})
        if paper:
            rows.append({"arm": name, "whose": "paper", "cells": paper})
    return rows


def _labels(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the cautions of all comparisons, those of some with their names, and the sources."""
    labels = []
    for note in dict.fromkeys(note for one in comparisons for note in one["labels"]):
        having = [one["dataset"] for one in comparisons if note in one["labels"]]
        everywhere = len(having) == len(comparisons)
        labels.append(note if everywhere else f"{', '.join(having)}: {note}")
    models = dict.fromkeys(one["model"] for one in comparisons)
    labels += [f"our network: {', '.join(models)}"] if models else []
    papers = {
        (arm["arm"], arm["paper_label"])
        for one in comparisons
        for arm in one["arms"]
        if arm["paper_label"]
    }
    return labels + [f"the paper, {arm}: {label}" for arm, label in sorted(papers)]
