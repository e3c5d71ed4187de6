"""`export`: write a run in another program's format, and let the file prove itself.

The file is written beside its place, opened by its own runtime, asked about the run's images and
compared; only then is it moved to its place. Otherwise nothing is left on disk.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deit_transfer.analysis.statistics import wilson_interval
from deit_transfer.data.dataset import ImageSet, Progress
from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.engine.inference import Predictions
from deit_transfer.engine.losses import late_fusion
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import ResourceError, UsageError
from deit_transfer.evaluation.eval_splits import splits_of_run
from deit_transfer.evaluation.predictor import Predictor, open_predictor, predictor_at
from deit_transfer.export.formats import (
    EXPORTS,
    ExportFormat,
    check_export,
    export_path,
    find_format,
    loading_lines,
)
from deit_transfer.export.gate import (
    RESIZED_TIE,
    TIE,
    check_agreement,
    check_loss,
    compare_answers,
)
from deit_transfer.export.latency import measure_latency
from deit_transfer.export.subject import ExportSubject, OpenedExport, photos_of, write_parents
from deit_transfer.report.number_format import counted
from deit_transfer.runs.environment import describe_environment
from deit_transfer.training import build

MOST_IMAGES = 1000
IN_FLOAT32 = {"run.device": "cpu", "run.precision": "fp32"}


def export(
    run: Path,
    *,
    to: str,
    out: Path | None = None,
    tolerance: float = 0.5,
    raw: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a finished run in a format, compare it with the run, and return the result object.

    Args:
        run: The run's folder.
        to: A name of `FORMATS`.
        out: The file or folder to write, which must be new; None takes a place in the run's own
            folder, where an earlier export is replaced.
        tolerance: Points of top-1 that 8 bits may lose.
        raw: Of ONNX, leave the preprocessing out.
        progress: Called with (images answered, images), by the run and by the file.

    Raises:
        DataError: The folder is no run, or its images are not there.
        CheckpointError: The run has not finished, or the file does not decide as the run does.
        UsageError: The format does not know the network, a package is missing, or `out` exists.
        ResourceError: The place cannot be written to.
    """
    wanted = find_format(to)
    check_export(run, to, raw=raw)
    place = export_path(run, wanted, out)
    check_place(place, run)
    predictor = open_predictor(str(run), overrides=IN_FLOAT32)
    with StopSignals(hint="") as stop:
        images, asked_of = _images(predictor, stop)
        subject = _subject(predictor, images)
        scored = _ask_run(predictor, images, stop, _first_half(progress, len(images)))
        with _beside(place) as temporary:
            notes = _write(wanted, subject, temporary, raw=raw)
            opened = _open(wanted, temporary)
            theirs = _ask_file(opened, images, stop, _second_half(progress, len(images)))
            expected = _expected(wanted, predictor, scored, images, stop)
            facts = _judge(wanted, expected, theirs, scored, images, tolerance)
            facts |= _speeds(subject, opened)
            facts["bytes"] = _size(temporary)
            stop.check()
            _move(temporary, place)
    return {
        "run": str(run),
        "to": to,
        "path": str(place),
        "holds": wanted.holds,
        **_network_facts(subject),
        "asked_of": asked_of,
        "runtime": opened.runtime,
        **facts,
        "load": loading_lines(wanted, place, raw=raw),
        "notes": [*notes, *_notes(wanted, subject, facts, asked_of)],
        "hardware": describe_environment().get("processor") or "this machine",
    }


def check_place(place: Path, run: Path) -> None:
    """Refuse a place that is taken, unless it is that of an earlier export in the run's folder."""
    if place.exists() and place.parent != run / EXPORTS:
        raise UsageError(
            f"{place} exists already", hint="Name a new file or folder with --out, or remove it"
        )


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """Give a path beside `place`; whatever is there or was made for it is removed on failure."""
    made: list[Path] = []
    try:
        made = write_parents(place)
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=place.parent))
    except OSError as error:
        _remove_empty(made)
        raise ResourceError(
            f"cannot write to {place.parent}: {error.strerror}",
            hint="Choose a place you can write to with --out PATH",
        ) from None
    try:
        yield folder / place.name
        made = []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _move(temporary: Path, place: Path) -> None:
    """Put what has passed into its place, in the stead of an earlier export."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    os.replace(temporary, place)


def _images(predictor: Predictor, stop: StopSignals) -> tuple[ImageSet, str]:
    """Return the images to ask about, at most 1,000 spread over the split, and what they are."""
    splits = splits_of_run(predictor, named=False, needed=True, stop=stop)
    assert splits is not None  # a run has its own
    images, name = (splits.train, "training") if splits.val is None else (splits.val, "validation")
    total = len(images)
    if total > MOST_IMAGES:
        images = images.subset(np.linspace(0, total - 1, MOST_IMAGES).astype(np.int64))
    of = f" of {total:,}" if total > len(images) else ""
    return images, f"{len(images):,}{of} {name} images of {splits.name}"


def _subject(predictor: Predictor, images: ImageSet) -> ExportSubject:
    return ExportSubject(
        name=predictor.subject.name,
        classifier=predictor.subject.classifier,
        class_names=predictor.class_names,
        crop_pct=build.evaluation_crop(predictor.recipe),
        images=images,
    )


def _network_facts(subject: ExportSubject) -> dict[str, Any]:
    return {
        "model": subject.classifier.name,
        "num_classes": len(subject.class_names),
        "resolution": subject.classifier.resolution,
    }


def _ask_run(
    predictor: Predictor, images: ImageSet, stop: StopSignals, progress: Progress | None = None
) -> Predictions:
    asked = predictor_at(predictor)
    return asked.predict(asked.batches(images, stop=stop), stop=stop, progress=progress)


def _ask_file(
    opened: OpenedExport, images: ImageSet, stop: StopSignals, progress: Progress | None
) -> NDArray[np.float32]:
    parts = []
    done = 0
    for photos in photos_of(images):
        stop.check()
        parts.append(opened.probabilities(photos))
        done += len(photos)
        if progress is not None:
            progress(done, len(images))
    return np.concatenate(parts)


def _write(wanted: ExportFormat, subject: ExportSubject, path: Path, *, raw: bool) -> list[str]:
    """Write the file or folder, and return what is to be said about it."""
    if wanted.name == "timm":
        from deit_transfer.export.timm_folder import write_timm

        write_timm(subject, path)
    elif wanted.name == "hf":
        from deit_transfer.export.hf_folder import write_hf

        write_hf(subject, path)
    elif wanted.name == "deit":
        from deit_transfer.export.deit_checkpoint import write_deit

        write_deit(subject, path)
    elif wanted.name == "torch":
        from deit_transfer.export.torch_program import write_torch_program

        write_torch_program(subject, path)
    elif wanted.name == "onnx":
        from deit_transfer.export.onnx_file import write_onnx

        write_onnx(subject, path, raw=raw)
    else:
        from deit_transfer.export.onnx_int8 import write_onnx_int8

        return [write_onnx_int8(subject, path, raw=raw)]
    return []


def _open(wanted: ExportFormat, path: Path) -> OpenedExport:
    """Open an export by its own runtime."""
    if wanted.name == "timm":
        from deit_transfer.export.timm_folder import TimmExport

        return TimmExport(path)
    if wanted.name == "hf":
        from deit_transfer.export.hf_folder import TransformersExport

        return TransformersExport(path)
    if wanted.name == "deit":
        from deit_transfer.export.deit_checkpoint import DeitExport

        return DeitExport(path)
    if wanted.name == "torch":
        from deit_transfer.export.torch_program import TorchExport

        return TorchExport(path)
    from deit_transfer.export.onnx_file import OnnxExport

    return OnnxExport(path)


def _expected(
    wanted: ExportFormat,
    predictor: Predictor,
    scored: Predictions,
    images: ImageSet,
    stop: StopSignals,
) -> NDArray[np.float32]:
    """Return what the runtime must answer (N, K): the run's own heads, fused as it fuses them."""
    if wanted.name == "hf":
        from deit_transfer.export.hf_folder import TransformersView

        view = TransformersView(
            resolution=predictor.subject.classifier.resolution,
            crop_pct=build.evaluation_crop(predictor.recipe),
        )
        asked = dataclasses.replace(predictor_at(predictor), transform=view)
        scored = asked.predict(asked.batches(images, stop=stop), stop=stop)
    heads = scored.heads
    if wanted.averages_logits and heads.distill_logits is not None:
        return ((heads.class_logits + heads.distill_logits) / 2).softmax(dim=-1).numpy()
    return late_fusion(heads).numpy()


def _judge(
    wanted: ExportFormat,
    expected: NDArray[np.float32],
    theirs: NDArray[np.float32],
    scored: Predictions,
    images: ImageSet,
    tolerance: float,
) -> dict[str, Any]:
    """Refuse a file that does not answer as it must, and return how it compares with the run."""
    labels, ids = images.labels, images.ids
    found = compare_answers(expected, theirs, tie=RESIZED_TIE if wanted.resizes else TIE)
    ours = late_fusion(scored.heads).numpy()
    facts: dict[str, Any] = {}
    if wanted.name == "onnx-int8":
        change = check_loss(ours, theirs, labels, tolerance=tolerance)
        facts["change"] = {"points": change.mean, "ci95": [change.low, change.high]}
        facts["tolerance"] = tolerance
    else:
        check_agreement(found, ids=list(ids), what=wanted.name, resizes=wanted.resizes)
    return {
        "num_images": found.num_images,
        "top1_before": _top1(ours, labels),
        "top1_after": _top1(theirs, labels),
        "equal_decisions": found.num_equal,
        "ties": [ids[index] for index in found.ties],
        "most_apart": found.most_apart,
        "equal_to_run": int((theirs.argmax(axis=1) == ours.argmax(axis=1)).sum()),
        **facts,
    }


def _top1(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Any]:
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    interval = wilson_interval(correct, len(labels))
    return {"top1": 100 * correct / len(labels), "ci95": [interval.low, interval.high]}


def _speeds(subject: ExportSubject, opened: OpenedExport) -> dict[str, Any]:
    """Return the milliseconds an image takes, from photo to probabilities, here and there."""
    from deit_transfer.data.pipeline.transforms import eval_transform

    view = eval_transform(resolution=subject.classifier.resolution, crop_pct=subject.crop_pct)
    normalize = build.normalization(subject.classifier)

    @torch.inference_mode()
    def here(photos: Sequence[Pixels]) -> None:
        shown = np.stack([view(photo) for photo in photos])
        subject.classifier(normalize(torch.from_numpy(shown).permute(0, 3, 1, 2)))

    photo = next(photos_of(subject.images))[0]
    timed = measure_latency({"here": here, "there": opened.probabilities}, photo)
    return {"latency_before": timed["here"], "latency_after": timed["there"]}


def _notes(
    wanted: ExportFormat, subject: ExportSubject, facts: dict[str, Any], asked_of: str
) -> list[str]:
    notes = []
    if " training images" in asked_of:
        notes.append("the run held no validation images back: asked about training images")
    if wanted.averages_logits and subject.classifier.distilled:
        notes.append(
            f"{wanted.name} averages the logits of both heads, where this program averages their "
            f"probabilities: {_of(facts)} decisions are those of evaluate"
        )
    if wanted.name == "hf" and facts["equal_to_run"] < facts["num_images"]:
        notes.append(
            "transformers resizes by code of its own and rounds a crop's margins down: "
            f"{_of(facts)} decisions are those of evaluate"
        )
    if facts["ties"] and wanted.name != "onnx-int8":
        tied = counted(len(facts["ties"]), "image")
        notes.append(f"{tied} with two classes as good as tied: {', '.join(facts['ties'][:5])}")
    return notes


def _of(facts: dict[str, Any]) -> str:
    return f"{facts['equal_to_run']:,} of {facts['num_images']:,}"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _first_half(progress: Progress | None, count: int) -> Progress | None:
    return None if progress is None else lambda done, _total: progress(done, 2 * count)


def _second_half(progress: Progress | None, count: int) -> Progress | None:
    return None if progress is None else lambda done, _total: progress(count + done, 2 * count)
