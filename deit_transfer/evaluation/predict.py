"""Classify image files that belong to no dataset."""

import functools
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import ImageNetInfo

from deit_transfer.data.dataset import ImageSet, Progress
from deit_transfer.data.pipeline.decode import FULL_RANGE, gray_range
from deit_transfer.data.pipeline.loader import EvalBatches, eval_batches
from deit_transfer.data.readers.file_listing import list_images
from deit_transfer.engine.distributed import World
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError, ResourceError
from deit_transfer.evaluation.load_model import is_run_path
from deit_transfer.evaluation.outputs import csv_text
from deit_transfer.evaluation.predictor import (
    Predictor,
    ResolutionPredictor,
    check_heads,
    open_predictor,
    predictor_at,
)
from deit_transfer.files import check_replaceable, write_text_atomic
from deit_transfer.runs.folder import DATA_FILE, open_run
from deit_transfer.runs.predictions import StoredPredictions, predictions_to_store
from deit_transfer.training import build

Answer = dict[str, Any]

CSV_DECIMALS = 2
CSV_START = "image,head"  # how a CSV file of ours begins


def predict(
    subject: str,
    paths: Sequence[Path],
    *,
    top: int = 5,
    heads: Sequence[str] = ("joint",),
    overrides: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the likeliest classes of images, and which images could not be read.

    Args:
        subject: A finished run's folder, `MODEL`, or `MODEL=WEIGHTS`.
        paths: Image files, and folders that are searched for images to any depth.
        top: Classes told of each image, 1 or more; at most all there are.
        heads: Whose answers: class, distill, joint; of a network with one head always class.
        overrides: Recipe settings of place and precision, by dotted location.
        progress: Called with the (images answered, images).

    Raises:
        DataError: A path does not exist, or there is no image.
        UsageError: The network has not these heads.
    """
    predictor = open_predictor(subject, overrides=overrides)
    check_heads(predictor, tuple(heads))
    images, skipped = find_images(paths)
    images = images.shown(apply_exif=True, gray_white=_gray_white(subject, images))
    asked = predictor_at(predictor)
    batches = _batches(asked, images)
    start = time.perf_counter()
    with StopSignals(hint="") as stop:
        predictions = asked.predict(batches, stop=stop, progress=progress)
    seconds = time.perf_counter() - start
    stored, bad = (
        predictions_to_store(predictions, images),
        {images.ids[one.index] for one in batches.bad},
    )
    num_answered = len(images) - len(bad)
    return {
        "run": subject,
        "model": predictor.subject.classifier.name,
        "num_images": len(images),
        "num_answered": num_answered,
        "images": _answers(predictor, stored, bad=bad, heads=heads, top=top),
        "unreadable": [
            {"image": images.ids[one.index], "reason": one.reason} for one in batches.bad
        ],
        "seconds": seconds,
        "images_per_second": num_answered / max(seconds, 1e-9),
        "notes": [*predictor.notes, *skipped],
        "device": str(predictor.device),
        "precision": predictor.precision.name,
    }


def find_images(paths: Sequence[Path]) -> tuple[ImageSet, list[str]]:
    """Return the images at paths, each once, in the order given and sorted within folders.

    Returns:
        The images, and what was passed over in folders, in words.

    Raises:
        DataError: A path does not exist, or there is no image.
    """
    found: dict[str, Path] = {}  # by what a path leads to, so that no image is classified twice
    skipped: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            inside = [path / name for name in list_images(path, skipped)]
        elif path.is_file():
            inside = [path]
        else:
            raise DataError(f"there is no {path}", hint="Give image files, or folders of images")
        for image in inside:
            found.setdefault(os.path.realpath(image), image)
    if not found:
        raise DataError(
            f"there is no image in {', '.join(map(str, paths))}"
            + "".join(f"; {count} {what}" for what, count in sorted(skipped.items())),
            hint="Give image files, or folders that hold some",
        )
    counted = ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
    files = [str(path) for path in found.values()]
    images = ImageSet.from_files(Path(), files, np.zeros(len(files), np.int64), apply_exif=True)
    return images, [f"skipped files: {counted}"] if counted else []


def _gray_white(subject: str, images: ImageSet) -> int:
    """Return the white of deep gray images: the run's, unless these are brighter."""
    seen = gray_range(images)
    if not is_run_path(subject):
        return seen
    recorded = open_run(Path(subject).expanduser()).read_json(DATA_FILE).get("gray_white")
    return seen if recorded in (None, FULL_RANGE) else max(int(recorded), seen)


def check_csv(path: Path) -> None:
    """Refuse to write answers over what is no CSV file of answers; raises UsageError."""
    check_replaceable(
        path,
        lambda head: head.decode("utf-8", "replace").startswith(CSV_START),
        ours="a CSV file that predict wrote",
        option="--csv",
    )


def write_predictions_csv(path: Path, result: dict[str, Any]) -> None:
    """Write the answers as CSV: a row an image and head, the likeliest class first.

    Raises:
        ResourceError: The file cannot be written.
    """
    answers = result["images"]
    most = max((len(one["classes"]) for one in answers), default=0)
    named = any("name" in given for one in answers for given in one["classes"])
    keys = ("class", "name", "percent") if named else ("class", "percent")
    header = [f"{key}{rank}" for rank in range(1, most + 1) for key in keys]
    rows: list[list[Any]] = [["image", "head", *header]]
    for one in answers:
        told = [_csv_cell(given.get(key, "")) for given in one["classes"] for key in keys]
        rows.append([one["image"], one["head"], *told])
    try:
        write_text_atomic(path, csv_text(rows))
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror}", hint="Choose another file with --csv FILE"
        ) from error


def _csv_cell(value: Any) -> Any:
    return round(value, CSV_DECIMALS) if isinstance(value, float) else value


def _batches(asked: ResolutionPredictor, images: ImageSet) -> EvalBatches:
    # an unreadable image must not keep the others from being answered, and no image is seen twice
    predictor = asked.predictor
    return eval_batches(
        images,
        transform=asked.transform,
        batch_size=predictor.recipe.run.eval_batch_size,
        workers=build.num_workers(predictor.recipe, World()),
        allow_bad=True,
        pin_memory=predictor.device.type == "cuda",
    )


def _answers(
    predictor: Predictor,
    stored: StoredPredictions,
    *,
    bad: set[str],
    heads: Sequence[str],
    top: int,
) -> list[Answer]:
    """Return the answers of each head on every readable image."""
    found = {}
    # one head answers alone, as both together or as itself: one name, and no answer twice
    asked = heads if predictor.subject.classifier.distilled else ("class",)
    for head in asked:
        probabilities = torch.from_numpy(stored.probabilities(head))  # (N, K)
        values, classes = probabilities.topk(min(top, probabilities.shape[1]))  # (N, top)
        found[head] = (values.double(), classes)
    told = []
    for place, name in enumerate(stored.ids.tolist()):
        if name in bad:
            continue
        for head, (values, classes) in found.items():
            pairs = zip(classes[place].tolist(), values[place].tolist(), strict=True)
            given = [_class(predictor, label, value) for label, value in pairs]
            told.append({"image": name, "head": head, "classes": given})
    return told


def _class(predictor: Predictor, label: int, probability: float) -> dict[str, Any]:
    name = predictor.class_names[label]
    told: dict[str, Any] = {"class": name, "label": label, "percent": 100 * probability}
    described = _descriptions().get(name)
    return told | ({"name": described} if described else {})


@functools.cache
def _descriptions() -> dict[str, str]:
    """Return ImageNet's synsets in words: n01440764 is tench, Tinca tinca."""
    info = ImageNetInfo()
    return dict(zip(info.label_names(), info.label_descriptions(), strict=True))
