"""Datasets of the Hugging Face hub: hf:OWNER/NAME, or a folder of its parquet files.

Files are read with pyarrow, never by a repository's own code. Copies of the paper's datasets are
held to the published counts, and those known to be wrong are refused with the right one named.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deit_transfer.data.adapters.cars import CarsAdapter
from deit_transfer.data.adapters.cifar import CIFAR10, CIFAR100
from deit_transfer.data.adapters.flowers102 import FlowersAdapter
from deit_transfer.data.adapters.imagenet import ImageNetAdapter
from deit_transfer.data.dataset import (
    SPLITS,
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    DatasetOpener,
    ImageSet,
    Progress,
    Split,
)
from deit_transfer.data.fetch.hub import fetch_parquet
from deit_transfer.data.labels import case_notes, number_labels
from deit_transfer.data.readers.parquet import find_columns, image_set, unpack
from deit_transfer.data.splits import SPLIT_NAMES, settle_splits
from deit_transfer.errors import DataError, UsageError

PREFIX = "hf:"
_ADDRESS = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(?P<folder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?"
)
_FORM = f"{PREFIX}OWNER/NAME, {PREFIX}OWNER/NAME@REVISION, or {PREFIX}FOLDER with parquet files"
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})")

HUB = DatasetInfo(
    name="hf:OWNER/NAME",
    title="A dataset of the Hugging Face hub, or a folder of parquet files",
    num_classes=None,
    counts={},
    license="see its page",
    source="https://huggingface.co/datasets",
    apply_exif=True,
    access="address",
)


class Benchmark(NamedTuple):
    """A published dataset on the hub: its facts, its class names and its split names."""

    info: DatasetInfo
    class_names: tuple[str, ...]
    groups: tuple[str, ...] = ()
    splits: dict[Split, Split] = {}  # noqa: RUF012  a NamedTuple's default, never changed


def benchmarks() -> dict[str, Benchmark]:
    """Return the copies on the hub that hold the paper's datasets, by repository."""
    flowers, cars, imagenet = FlowersAdapter(), CarsAdapter(), ImageNetAdapter()
    flowers_copy = Benchmark(flowers.info, flowers.class_names)
    scored: dict[Split, Split] = {"val": "test"}  # its own test split has no labels
    return {
        "uoft-cs/cifar10": Benchmark(CIFAR10.info, CIFAR10.class_names),
        "uoft-cs/cifar100": Benchmark(CIFAR100.info, CIFAR100.class_names, CIFAR100.groups),
        "dpdl-benchmark/oxford_flowers102": flowers_copy,
        "donghyun99/oxford-flower-102": flowers_copy,
        "tanganke/stanford_cars": Benchmark(cars.info, cars.class_names),
        "ilsvrc/imagenet-1k": Benchmark(imagenet.info, imagenet.class_names, splits=scored),
    }


_FLOWERS_COPY = "hf:dpdl-benchmark/oxford_flowers102"
_WRONG = {
    "nelorth/oxford-flowers": "its split is not the official one (train 7,169, test 1,020)",
    "voxel51/oxfordflowers102": "it has 16.4k rows where the set has 8,189 images",
}
# What gives a wrong copy away when it was renamed: classes, and images of each split.
_WRONG_COUNTS: dict[tuple[int, frozenset[tuple[Split, int]]], str] = {
    (102, frozenset({("train", 7169), ("test", 1020)})): "nelorth/oxford-flowers",
}


@dataclass(frozen=True, kw_only=True)
class HubOpener:
    """Parquet files from the hub or from a folder."""

    info: DatasetInfo = HUB

    def accepts(self, address: str) -> bool:
        return address.startswith(PREFIX)

    def published_name(self, address: str) -> str | None:
        matched = _ADDRESS.fullmatch(address.removeprefix(PREFIX))
        known = benchmarks().get(matched["repository"].lower()) if matched else None
        return known.info.name if known else None

    def open(
        self, address: str, *, for_evaluation: bool = False, progress: Progress | None = None
    ) -> Dataset:
        named = address.removeprefix(PREFIX)
        path = Path(named).expanduser()
        if path.exists() or named.startswith(("/", ".", "~")):
            return read_parquet(
                _local_files(path),
                path if path.is_dir() else path.parent,
                info=replace(HUB, name=address, title=path.name, source=str(path)),
                for_evaluation=for_evaluation,
                progress=progress,
            )
        return self._open_repository(address, for_evaluation, progress)

    def _open_repository(
        self, address: str, for_evaluation: bool, progress: Progress | None
    ) -> Dataset:
        matched = _ADDRESS.fullmatch(address.removeprefix(PREFIX))
        if matched is None:
            raise UsageError(f"{address!r} is no dataset on the hub", hint=_write_owner(address))
        repository, inside = matched["repository"], matched["folder"].strip("/")
        if reason := _WRONG.get(repository.lower()):
            raise _wrong_copy(repository, reason)
        by_hand = (
            f"Where there is a network, type: hf download --repo-type dataset {repository} "
            f"--local-dir FOLDER. Then name the folder: {PREFIX}FOLDER"
        )
        root, commit = fetch_parquet(repository, matched["revision"], by_hand=by_hand)
        dataset = read_parquet(
            _local_files(root / inside),
            root,
            info=replace(HUB, name=f"{PREFIX}{repository}", title=repository),
            for_evaluation=for_evaluation,
            progress=progress,
            benchmark=benchmarks().get(repository.lower()),
        )
        return replace(dataset, notes=[*dataset.notes, f"revision {commit}"])


def read_parquet(
    files: Sequence[Path],
    root: Path,
    *,
    info: DatasetInfo,
    for_evaluation: bool,
    progress: Progress | None,
    benchmark: Benchmark | None = None,
) -> Dataset:
    """Read parquet files as one dataset; their names and folders say which split each holds.

    Raises:
        DataError: Files are missing or differ, or a known benchmark has other counts.
    """
    by_split = _by_split(files, root)
    columns = find_columns([path for group in by_split.values() for path in group])
    rows = {split: unpack(group, columns, progress=progress) for split, group in by_split.items()}
    class_names, numbers = number_labels(
        {split: part.labels for split, part in rows.items()},
        class_names=columns.shared_names,
        source=f"column {columns.label}",
    )
    notes = case_notes(class_names)
    if columns.differ:
        notes.append("files number their classes differently: labels are joined by class name")
    notes += [
        f"column {columns.label} of labels; {name} is left out" for name in columns.other_labels
    ]
    found: dict[Split | None, ImageSet] = {}
    for split, part in rows.items():
        labels = numbers[split]
        labeled = np.flatnonzero(labels >= 0)
        if len(labeled) < len(labels):
            notes.append(
                f"{len(labels) - len(labeled):,} of {len(labels):,} images "
                f"{f'of {split} ' if split else ''}have no label and are left out"
            )
        if len(labeled):
            found[split] = image_set(part, labels[labeled], labeled, name=split or "row")
    _refuse_wrong_counts(found, len(class_names))
    if benchmark is not None:
        return _as_benchmark(found, class_names, benchmark, root, info, notes)
    splits, said = settle_splits(found, class_names, for_evaluation=for_evaluation)
    counts = {split: len(images) for split, images in splits.items()}
    return Dataset(
        info=replace(info, num_classes=len(class_names), counts=counts),
        class_names=class_names,
        splits=splits,
        root=root,
        layout=_layout(by_split),
        notes=[*notes, *said],
    )


def _as_benchmark(
    found: dict[Split | None, ImageSet],
    class_names: tuple[str, ...],
    benchmark: Benchmark,
    root: Path,
    info: DatasetInfo,
    notes: list[str],
) -> Dataset:
    """Check a copy of a published dataset against its counts, and add that dataset's facts."""
    splits = {benchmark.splits.get(s, s): images for s, images in found.items() if s is not None}
    counts = {split: len(images) for split, images in splits.items()}
    if counts != benchmark.info.counts:
        raise DataError(
            f"{info.name} holds {counts}, and {benchmark.info.title} is {benchmark.info.counts}",
            hint="The copy is not whole or not the official split. Delete its folder in the "
            f"hub's cache and try again, or use the original: {benchmark.info.name}",
        )
    same = [_plain(name) for name in class_names] == [_plain(n) for n in benchmark.class_names]
    if not same and benchmark.info.name != "imagenet":
        notes = [*notes, f"class names are this copy's own, not those of {benchmark.info.name}"]
    named = benchmark.class_names if same or benchmark.info.name == "imagenet" else class_names
    return Dataset(
        info=replace(benchmark.info, source=info.title),
        class_names=named,
        splits=splits,
        root=root,
        layout=f"parquet files of {info.name}",
        notes=notes,
        groups=benchmark.groups if named == benchmark.class_names else (),
    )


def _local_files(path: Path) -> list[Path]:
    """Return the parquet files at or below a path, none of a sharded set missing."""
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        reason = "holds no parquet file" if path.is_dir() else "does not exist"
        raise DataError(
            f"{path} {reason}",
            hint=f"Address: {_FORM}. Repositories without parquet files need code of their own, "
            "which is never run",
        )
    shards: dict[str, tuple[int, set[int]]] = {}
    for file in files:
        if matched := _SHARD.fullmatch(str(file.with_suffix(""))):
            _, numbers = shards.setdefault(matched["stem"], (int(matched["total"]), set()))
            numbers.add(int(matched["number"]))
    missing = [
        f"{Path(stem).name}-{number:05d}-of-{total:05d}.parquet"
        for stem, (total, numbers) in shards.items()
        for number in sorted(set(range(total)) - numbers)
    ]
    if missing:
        raise DataError(
            f"{len(missing)} parquet files are missing from {path}, such as {missing[0]}",
            hint="Download the dataset again: hf download --repo-type dataset OWNER/NAME "
            "--local-dir FOLDER",
        )
    return files


def _by_split(files: Sequence[Path], root: Path) -> dict[Split | None, list[Path]]:
    """Group files by the split that their name or folder says; None when none says one."""
    groups: dict[Split | None, list[Path]] = {}
    for path in files:
        groups.setdefault(_split_of(path.relative_to(root)), []).append(path)
    if None in groups and len(groups) > 1:
        raise DataError(
            f"{groups[None][0]} is of no split, where other files are",
            hint="Give it a name such as train-00000.parquet, or move it away",
        )
    groups = {split: groups[split] for split in (*SPLITS, None) if split in groups}
    for split, group in groups.items():
        folders = sorted({path.parent for path in group})
        if len(folders) > 1:
            raise DataError(
                f"{root} holds {len(folders)} versions of {split or 'the images'}, in "
                f"{', '.join(folder.name for folder in folders[:5])}",
                hint=f"Name the folder of one of them, such as {PREFIX}{folders[0]} "
                f"({PREFIX}OWNER/NAME/{folders[0].name} on the hub)",
            )
    return groups


def _split_of(path: Path) -> Split | None:
    for part in reversed(path.with_suffix("").parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return None


def _refuse_wrong_counts(found: dict[Split | None, ImageSet], num_classes: int) -> None:
    counts: Any = frozenset((split, len(images)) for split, images in found.items())
    if name := _WRONG_COUNTS.get((num_classes, counts)):
        raise _wrong_copy(name, _WRONG[name])


def _wrong_copy(repository: str, reason: str) -> DataError:
    return DataError(
        f"{repository} is no usable copy of Flowers-102: {reason}",
        hint=f"Use the one with the official split: {_FLOWERS_COPY}",
    )


def _write_owner(address: str) -> str:
    """Return how an address is written, with the copy that someone without an owner may mean."""
    named = _plain(address.removeprefix(PREFIX))
    for repository, known in benchmarks().items():
        if named in (_plain(repository.partition("/")[2]), _plain(known.info.name)):
            return f"Name its owner too: {PREFIX}{repository}"
    return f"Write {_FORM}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _layout(by_split: dict[Split | None, list[Path]]) -> str:
    counted = (f"{split or 'all'} {len(files)}" for split, files in by_split.items())
    return f"parquet files ({', '.join(counted)})"


ADAPTERS: tuple[DatasetAdapter, ...] = ()
OPENERS: tuple[DatasetOpener, ...] = (HubOpener(),)
