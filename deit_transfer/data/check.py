"""Check a dataset: read every image once and list everything that is wrong with it.

A problem makes figures wrong or a run fail; a warning is for the user to judge.
"""

import hashlib
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from deit_transfer.data.dataset import SPLITS, Dataset, ImageSet, Pixels, Progress, Split
from deit_transfer.data.pipeline.decode import decode_image
from deit_transfer.errors import ImageError

_CHUNK = 256  # images a worker reads at a time
_PARALLEL_FROM = 2000  # images; below, starting processes costs more than it saves
_MOST_WORKERS = 8

# More copies of training images than this in a held-out split, and its score means little.
_LEAK_PROBLEM = 0.01
_IMBALANCE = 10  # largest over smallest class from which plain accuracy misleads
_FEW_IMAGES = 5  # per class, below which a class is hardly learned or scored
_EXAMPLES = 5


class ImageFacts(NamedTuple):
    """One image as checked: a digest of its bytes, its size and kind, or its fault."""

    digest: bytes
    width: int = 0
    height: int = 0
    kind: str = ""
    notes: tuple[str, ...] = ()
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that cannot be decoded."""

    split: str
    image: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Images that are equal byte for byte, each as "split: id"."""

    images: list[str]
    splits: list[str]
    classes: list[str]


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The result of a check, as plain values.

    `facts` are (label, value) pairs for people; `unreadable` and `copies` hold every case, where
    `problems` and `warnings` name some of them.
    """

    dataset: str
    root: str | None
    layout: str
    counts: dict[str, int]
    class_names: list[str]
    per_class: dict[str, dict[str, int]]
    unreadable: list[UnreadableImage] = field(default_factory=list)
    copies: list[Copies] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_dataset(
    dataset: Dataset, *, workers: int | None = None, progress: Progress | None = None
) -> CheckReport:
    """Decode every image and compare classes, counts and contents over the splits.

    Args:
        dataset: The dataset as loaded.
        workers: Processes that decode; 0 for none, None for as many as help.
        progress: Called with the images done and in total.
    """
    splits = {split: dataset.splits[split] for split in SPLITS if split in dataset.splits}
    looks = _look_at_all(splits, workers, progress)
    report = CheckReport(
        dataset=dataset.info.title,
        root=str(dataset.root) if dataset.root else None,
        layout=dataset.layout,
        counts={split: len(images) for split, images in splits.items()},
        class_names=list(dataset.class_names),
        per_class={split: _per_class(dataset, images) for split, images in splits.items()},
        notes=list(dataset.notes),
    )
    _check_labels(report, dataset)
    _check_images(report, splits, looks)
    _check_copies(report, dataset, looks)
    _check_balance(report)
    return report


def _look_at_all(
    splits: dict[Split, ImageSet], workers: int | None, progress: Progress | None
) -> dict[Split, list[ImageFacts]]:
    total, done = sum(map(len, splits.values())), 0
    looks: dict[Split, list[ImageFacts]] = {}
    for split, images in splits.items():
        looks[split] = []
        for chunk in _look_in_chunks(images, _num_workers(images, workers)):
            looks[split] += chunk
            done += len(chunk)
            if progress:
                progress(done, total)
    return looks


def _num_workers(images: ImageSet, workers: int | None) -> int:
    if workers is not None:
        return workers
    if isinstance(images.source, Pixels) or len(images) < _PARALLEL_FROM:
        return 0
    return min(_MOST_WORKERS, os.cpu_count() or 1)


def _look_in_chunks(images: ImageSet, workers: int) -> Iterator[list[ImageFacts]]:
    starts = range(0, len(images), _CHUNK)
    if workers == 0:
        yield from map(partial(_look_at, images), starts)
        return
    # Fresh processes, not forks: this one may run threads (torch, a progress bar).
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(images,)
    )
    try:
        yield from pool.map(_look_at_own, starts)
    finally:
        pool.shutdown(cancel_futures=True)


_own_images: ImageSet  # of a worker process, set once when it starts


def _start_worker(images: ImageSet) -> None:
    global _own_images
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    _own_images = images


def _look_at_own(start: int) -> list[ImageFacts]:
    return _look_at(_own_images, start)


def _look_at(images: ImageSet, start: int) -> list[ImageFacts]:
    return [_look(images, i) for i in range(start, min(start + _CHUNK, len(images)))]


def _look(images: ImageSet, index: int) -> ImageFacts:
    try:
        data = images.read(index)
    except OSError as error:
        return ImageFacts(b"", fault=error.strerror or str(error))
    if isinstance(data, np.ndarray):
        height, width = data.shape[:2]
        return ImageFacts(_digest(data.tobytes()), width, height, "pixels")
    digest = _digest(data)
    try:
        found = decode_image(
            data, apply_exif=images.apply_exif, gray_white=images.gray_white, where=""
        )
    except ImageError as error:
        return ImageFacts(digest, fault=error.message.removeprefix("cannot decode : "))
    height, width = found.pixels.shape[:2]
    return ImageFacts(digest, width, height, f"{found.format} {found.mode}", found.notes)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _per_class(dataset: Dataset, images: ImageSet) -> dict[str, int]:
    counts = np.bincount(images.labels, minlength=dataset.num_classes)
    return {name: int(count) for name, count in zip(dataset.class_names, counts, strict=False)}


def _check_labels(report: CheckReport, dataset: Dataset) -> None:
    for split, images in dataset.splits.items():
        if not len(images):
            report.problems.append(f"{split} is empty")
        elif not 0 <= images.labels.min() <= images.labels.max() < dataset.num_classes:
            report.problems.append(f"{split} has labels outside 0..{dataset.num_classes - 1}")
        if len(set(images.ids)) != len(images):
            report.problems.append(f"{split} names some images twice")
    expected = dataset.info.counts
    if expected and expected != report.counts:
        report.problems.append(f"images: {report.counts}, expected {expected}")
    for part, counts in report.per_class.items():
        absent = [name for name, count in counts.items() if count == 0]
        if absent:
            kind = report.problems if part == "train" else report.warnings
            kind.append(f"{part} has no image of {_many(len(absent), 'class')}: {_some(absent)}")


def _check_images(
    report: CheckReport, splits: dict[Split, ImageSet], looks: dict[Split, list[ImageFacts]]
) -> None:
    kinds: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    for split, images in splits.items():
        for index, look in enumerate(looks[split]):
            if look.fault:
                place = images.where(index)
                report.unreadable.append(
                    UnreadableImage(split=split, image=place, reason=look.fault)
                )
                report.problems.append(f"cannot decode {place}: {look.fault}")
                continue
            kinds[look.kind] += 1
            notes.update(look.notes)
            sizes.append((look.width, look.height))
    report.facts.append(("formats", ", ".join(f"{k} {n:,}" for k, n in kinds.most_common())))
    report.facts.append(("sizes", _size_range(sizes)))
    report.notes.extend(f"{_many(count, 'image')}: {note}" for note, count in notes.most_common())


def _size_range(sizes: list[tuple[int, int]]) -> str:
    if not sizes:
        return "none"
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    small, middle, large = (
        f"{width} x {height}"
        for width, height in (by_area[0], by_area[len(sizes) // 2], by_area[-1])
    )
    return small if small == large else f"from {small} to {large}, median {middle} pixels"


def _check_copies(
    report: CheckReport, dataset: Dataset, looks: dict[Split, list[ImageFacts]]
) -> None:
    """Find equal files: within a split, over splits (leaks), and under different classes."""
    places: dict[bytes, list[tuple[Split, int]]] = {}
    for split, found in looks.items():
        for index, look in enumerate(found):
            if not look.fault:
                places.setdefault(look.digest, []).append((split, index))
    leaked: Counter[Split] = Counter()
    for group in places.values():
        if len(group) > 1:
            report.copies.append(_copies(dataset, group))
            if any(split == "train" for split, _ in group):
                leaked.update(split for split, _ in group if split != "train")
    occur = "occurs" if len(report.copies) == 1 else "occur"
    report.facts.append(("copies", f"{_many(len(report.copies), 'image')} {occur} more than once"))
    for held_out, count in leaked.items():
        share = count / report.counts[held_out]
        kind = report.problems if share > _LEAK_PROBLEM else report.warnings
        kind.append(
            f"{count} of {report.counts[held_out]} {held_out} images ({share:.2%}) are also in "
            f"train, such as {_example(report, held_out)}"
        )
    disputed = [copies for copies in report.copies if len(copies.classes) > 1]
    if disputed:
        report.warnings.append(
            f"in several classes: {_many(len(disputed), 'image')}, such as {disputed[0].images[0]} "
            f"({' and '.join(disputed[0].classes)})"
        )


def _copies(dataset: Dataset, group: list[tuple[Split, int]]) -> Copies:
    return Copies(
        images=[f"{split}: {dataset.splits[split].ids[index]}" for split, index in group],
        splits=sorted({split for split, _ in group}),
        classes=sorted(
            {dataset.class_names[dataset.splits[split].labels[index]] for split, index in group}
        ),
    )


def _example(report: CheckReport, split: str) -> str:
    for copies in report.copies:
        if {"train", split} <= set(copies.splits):
            return " = ".join(copies.images[:2])
    return ""


def _check_balance(report: CheckReport) -> None:
    counts = report.per_class.get("train") or next(iter(report.per_class.values()), {})
    if not counts:
        return
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    spread = f"{counts[least]:,} ({least}) to {counts[most]:,} ({most}) images a class"
    equal = counts[least] == counts[most]
    report.facts.append(("balance", f"{counts[most]:,} images in each class" if equal else spread))
    if counts[most] >= _IMBALANCE * max(1, counts[least]):
        report.warnings.append(
            f"classes are unbalanced, {counts[most]} {most} to {counts[least]} {least}: read the "
            "mean per class beside top-1"
        )
    for split, per_class in report.per_class.items():
        few = [name for name, count in per_class.items() if 0 < count < _FEW_IMAGES]
        if few:
            report.warnings.append(
                f"fewer than {_FEW_IMAGES} {split} images in {_many(len(few), 'class')}: "
                f"{_some(few)}"
            )


def _many(count: int, noun: str) -> str:
    """Return a count with what is counted: 1 class, 2 classes."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
