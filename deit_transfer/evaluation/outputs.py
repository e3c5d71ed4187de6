"""Write the files of an evaluation: confusion matrix, metrics per class, calibration."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deit_transfer.errors import ResourceError, UsageError
from deit_transfer.evaluation.metrics import (
    SplitPredictions,
    Temperature,
    confusion_of,
    per_class_facts,
    reliability_rows,
)
from deit_transfer.files import write_text_atomic
from deit_transfer.report.confusion_matrix import confusion_png
from deit_transfer.report.reliability_diagram import reliability_png
from deit_transfer.runs.folder import (
    COMPARISON_FILE,
    DATASETS_FILE,
    EPOCHS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    SWEEP_FILE,
)
from deit_transfer.runs.predictions import write_predictions

EVALUATION_FILE = "evaluation.json"
# each tells a folder that something else fills
OWN_FILES = (RECIPE_FILE, RESULT_FILE, COMPARISON_FILE, DATASETS_FILE, SWEEP_FILE, EPOCHS_FILE)


def check_folder(out: Path) -> None:
    """Refuse to mix an evaluation's files with those of a run, sweep or comparison."""
    owned = [name for name in OWN_FILES if (out / name).is_file()]
    if owned:
        raise UsageError(
            f"{out} has {owned[0]}, so it is the folder of a run or a comparison: an evaluation's "
            "files would be mixed with its own",
            hint=f"Name another folder, such as --out {out / 'evaluation'}",
        )


def write_evaluation(
    out: Path,
    result: dict[str, Any],
    scored: SplitPredictions,
    class_names: Sequence[str],
    temperature: Temperature | None,
    *,
    prefix: str = "",
) -> list[str]:
    """Write what does not fit a screen, replacing what an earlier call wrote, and list the files.

    Args:
        out: A folder, made where there is none.
        result: The result object, written as JSON.
        answered: The answers that it is of.
        class_names: K names.
        temperature: As fitted, for the diagram.
        prefix: Put before every file's name, where several datasets share the folder.

    Raises:
        ResourceError: The folder cannot be written, or the disk is full.
    """
    prefix = re.sub(r"[^\w.-]+", "-", prefix)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"cannot write to {out}: {error.strerror}",
            hint="Choose a folder you can write to with --out FOLDER",
        ) from error
    title = f"{result['model']} on {result['dataset']}"
    matrix = confusion_of(scored, class_names)
    paths = {
        name: out / f"{prefix}{name}"
        for name in (
            EVALUATION_FILE,
            "confusion.csv",
            "confusion.png",
            "per-class.csv",
            "reliability.png",
            "predictions.npz",
        )
    }
    write_text_atomic(
        paths["confusion.csv"],
        csv_text(
            [
                ["true \\ predicted", *matrix.class_names],
                *(
                    [name, *row]
                    for name, row in zip(matrix.class_names, matrix.counts.tolist(), strict=True)
                ),
            ]
        ),
    )
    confusion_png(
        paths["confusion.png"],
        matrix.counts,
        class_names=matrix.class_names,
        title=f"{title}: {int(matrix.counts.sum()):,} {result['split']} images",
    )
    rows = per_class_facts(scored, class_names)["per_class"]
    flat = [_ends_apart(row) for row in rows]
    write_text_atomic(
        paths["per-class.csv"], csv_text([list(flat[0]), *(list(row.values()) for row in flat)])
    )
    if scored.readable().any():
        reliability_png(
            paths["reliability.png"],
            reliability_rows(scored, temperature),
            title=title,
            facts=result["calibration"],
        )
    else:
        del paths["reliability.png"]
    write_predictions(paths["predictions.npz"], scored.stored)
    files = [str(path) for path in paths.values()]
    write_text_atomic(
        paths[EVALUATION_FILE], json.dumps({**result, "files": files}, indent=2) + "\n"
    )
    return files


def _ends_apart(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose intervals are two columns each."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key.endswith("_ci95"):
            low, high = value or (None, None)
            flat |= {key.replace("_ci95", "_low"): low, key.replace("_ci95", "_high"): high}
        else:
            flat[key] = value
    return flat


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
