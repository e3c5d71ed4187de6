"""WebDataset tar shards, wds:/data/name-{0000..0127}.tar, read in place by an index.

The index makes any image readable by itself, so that shuffling is complete, every process takes
its share of each step, and a resumed run goes on exactly; WebDataset's own shuffle buffer can do
none of these, and its library is not needed. Shards are plain tar files on a local or mounted disk.
"""

import glob
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import (
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    DatasetOpener,
    ImageSet,
    Progress,
    Split,
    Strings,
)
from deit_transfer.data.fetch.cache import key_of, read_arrays, write_arrays
from deit_transfer.data.labels import (
    Label,
    case_notes,
    clean_labels,
    number_labels,
    read_names_file,
)
from deit_transfer.data.readers.byte_ranges import ByteRanges
from deit_transfer.data.readers.file_listing import EXTENSIONS
from deit_transfer.data.readers.tar_index import TarIndex, index_tar
from deit_transfer.data.splits import SPLIT_NAMES, settle_splits
from deit_transfer.errors import DataError

PREFIX = "wds:"
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NAME_FILES = ("classnames.txt", "classes.txt")
_JSON_KEYS = ("label", "cls", "class_id")
_MOST_LISTED = 10
MOST_SHARDS = 100_000

SHARDS = DatasetInfo(
    name="wds:SHARDS",
    title="WebDataset tar shards: wds:/data/name-{0000..0127}.tar",
    num_classes=None,
    counts={},
    license="yours",
    source="https://github.com/webdataset/webdataset",
    apply_exif=True,
    access="address",
)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The samples of one shard: key, byte range of the image, and label (-1 if there is none)."""

    keys: Strings
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ShardOpener:
    """Shards named by braces, by wildcards, by a folder, or by several of these with ::."""

    info: DatasetInfo = SHARDS

    def accepts(self, address: str) -> bool:
        return address.startswith(PREFIX)

    def published_name(self, address: str) -> str | None:
        return None  # nothing in it says whose images these are

    def open(
        self, address: str, *, for_evaluation: bool = False, progress: Progress | None = None
    ) -> Dataset:
        paths = shard_paths(address.removeprefix(PREFIX))
        by_split: dict[Split | None, list[Path]] = {}
        for path in paths:
            by_split.setdefault(_split_of(path), []).append(path)
        if None in by_split and len(by_split) > 1:
            raise DataError(
                f"{by_split[None][0]} is of no split, where other shards are",
                hint="Name only shards that are called train, val or test, or none that are",
            )
        shards = {path: index_shard(path, progress=progress) for path in paths}
        _raise_faults(shards)
        class_names, labels, notes = _labels(shards)
        found = {
            split: _image_set(group, [shards[path] for path in group], [labels[p] for p in group])
            for split, group in by_split.items()
        }
        splits, said = settle_splits(found, class_names, for_evaluation=for_evaluation)
        return Dataset(
            info=replace(
                SHARDS,
                name=address,
                title=f"{len(paths)} tar shards in {paths[0].parent}",
                num_classes=len(class_names),
                counts={split: len(images) for split, images in splits.items()},
            ),
            class_names=class_names,
            splits=splits,
            root=paths[0].parent,
            layout=f"{len(paths)} tar shards, read in place by an index",
            notes=[*notes, *said],
        )


def shard_paths(pattern: str) -> list[Path]:
    """Return the shards that a pattern names, in order.

    Args:
        pattern: A path with braces {0000..0127} or {train,val}, nested or not, with wildcards,
            or a folder; several are joined by "::".

    Raises:
        DataError: Some that are named are missing, or none is there.
    """
    paths: list[Path] = []
    for part in pattern.split("::"):
        for name in _expand(part):
            path = Path(name).expanduser()
            if path.is_dir():
                paths += [p for p in sorted(path.glob("*.tar")) if not p.name.startswith("._")]
            elif path.is_file():
                paths.append(path)
            elif glob.has_magic(name):
                paths += sorted(Path(found) for found in glob.glob(str(path)))
            else:
                paths.append(path)
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        which = f"{pattern} names no tar file"
        if missing:
            which = f"{len(missing)} of {len(paths)} shards are missing, such as {missing[0]}"
        raise DataError(
            which,
            hint="Check the range, for example: wds:/data/imagenet-{0000..0127}.tar",
        )
    return list(dict.fromkeys(paths))


def index_shard(archive: Path, *, progress: Progress | None = None) -> Shard:
    """List the samples of a shard, from the cache where it was listed before."""
    key = "wds-" + key_of([archive], "wds")
    if (stored := read_arrays(key)) is not None:
        text = stored["keys"].tobytes().decode("utf-8", "surrogateescape")
        return Shard(
            keys=Strings(text.split("\0") if text else []),
            starts=stored["starts"],
            lengths=stored["lengths"],
            labels=stored["labels"],
        )
    shard = _list_samples(archive, index_tar(archive, progress=progress))
    if not shard.faults:
        packed = "\0".join(shard.keys).encode("utf-8", "surrogateescape")
        write_arrays(
            key,
            {
                "keys": np.frombuffer(packed, np.uint8),
                "starts": shard.starts,
                "lengths": shard.lengths,
                "labels": shard.labels,
            },
        )
    return shard


def _list_samples(archive: Path, index: TarIndex) -> Shard:
    """Group a shard's files by their name up to the first dot: image and label of one sample."""
    images: dict[str, int] = {}
    labels: dict[str, int] = {}
    others: dict[str, str] = {}  # by key, such as the mask of a sample that has its image
    faults: list[str] = []
    with archive.open("rb") as file:
        for place, name in enumerate(index.names):
            folder, _, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            key, extension = f"{folder}/{stem}" if folder else stem, extension.lower()
            if extension in EXTENSIONS:
                if key in images:
                    faults.append(f"sample {key} has two images")
                images[key] = place
            elif extension in ("cls", "json"):
                file.seek(int(index.starts[place]))
                label = _label(file.read(int(index.lengths[place])), extension)
                if label is not None and label >= 0:
                    labels[key] = label
                elif extension == "cls":
                    faults.append(f"{name} is no whole number from 0")
            elif extension.rpartition(".")[2] in (*EXTENSIONS, "cls", "json"):
                others.setdefault(key, name)
    faults += [f"sample {key} has no label (.cls or .json)" for key in images if key not in labels]
    faults += [f"sample {key} has no image" for key in labels if key not in images]
    faults += [
        f"{name}: a sample's key ends at the first dot, {key!r} here, which has no image"
        for key, name in others.items()
        if key not in images and key not in labels
    ]
    if index.passed_over:
        faults.append(f"{index.passed_over} links or devices, which no shard needs")
    places = np.fromiter(images.values(), np.int64, count=len(images))
    return Shard(
        keys=Strings(images),
        starts=index.starts[places],
        lengths=index.lengths[places],
        labels=np.array([labels.get(key, -1) for key in images], np.int64),
        faults=[f"{archive.name}: {fault}" for fault in faults],
    )


def _label(content: bytes, extension: str) -> int | None:
    try:
        if extension == "cls":
            return int(content.decode())
        described = json.loads(content)
        values = [described[key] for key in _JSON_KEYS if isinstance(described.get(key), int)]
        return values[0] if values else None
    except (ValueError, AttributeError):
        return None


def _expand(pattern: str) -> list[str]:
    """Return what a pattern with braces stands for, in order; braces may lie within braces."""
    start, depth, begin = pattern.find("{"), 0, 0
    parts: list[str] = []
    for place in range(max(start, 0), len(pattern) if start >= 0 else 0):
        mark = pattern[place]
        depth += (mark == "{") - (mark == "}")
        if place == start:
            begin = start + 1
        elif depth == 0 or (depth == 1 and mark == ","):
            parts.append(pattern[begin:place])
            begin = place + 1
        if depth == 0:
            inner = [name for part in parts for name in _expand_range(part, len(parts))]
            tails = _expand(pattern[begin:])
            return [f"{pattern[:start]}{name}{tail}" for name in inner for tail in tails]
    return [pattern]  # no braces, or one that is never closed: a plain name


def _expand_range(part: str, num_parts: int) -> list[str]:
    span = _RANGE.fullmatch(part)
    if span is None or num_parts > 1:
        return _expand(part)
    first, last = span.groups()
    if int(last) - int(first) >= MOST_SHARDS:
        raise DataError(
            f"{{{part}}} names more than {MOST_SHARDS:,} shards", hint="Check the range"
        )
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _split_of(path: Path) -> Split | None:
    for part in (path.stem, path.parent.name):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return None


def _labels(
    shards: Mapping[Path, Shard],
) -> tuple[tuple[str, ...], dict[Path, NDArray[np.int64]], list[str]]:
    """Return class names, each shard's labels from 0, and notes.

    Folders whose files of class names differ are joined by name.
    """
    names_of = {folder: _names_in(folder) for folder in dict.fromkeys(p.parent for p in shards)}
    stored: dict[Path, list[Label]] = {p: _clean(shard) for p, shard in shards.items()}
    first, *others = names_of.values()
    same = all(names == first for names in others)
    if not same:
        stored = {p: _by_name(labels, names_of[p.parent], p) for p, labels in stored.items()}
    class_names, numbers = number_labels(
        stored, class_names=first if same else None, source="the shards"
    )
    notes = case_notes(class_names)
    if not same:
        notes.append("folders number their classes differently: labels are joined by class name")
    if first is None and same:
        notes.append(f"class names are numbers: {_NAME_FILES[0]} beside the shards names them")
    return class_names, numbers, notes


def _clean(shard: Shard) -> list[Label]:
    """Return a shard's labels as whole numbers."""
    return clean_labels(shard.labels.tolist(), source="a shard")


def _names_in(folder: Path) -> tuple[str, ...] | None:
    for name in _NAME_FILES:
        if (folder / name).is_file():
            return read_names_file(folder / name)
    return None


def _by_name(labels: Sequence[Label], names: tuple[str, ...] | None, path: Path) -> list[Label]:
    if names is None:
        raise DataError(
            f"{path.parent} has no {_NAME_FILES[0]}, and other folders of shards have one",
            hint=f"Put {_NAME_FILES[0]} beside all shards: one name a line, in label order",
        )
    highest = max((int(label) for label in labels if label is not None), default=0)
    if highest >= len(names):
        raise DataError(
            f"{path} holds label {highest}, but {len(names)} classes are named beside it",
            hint="It needs one name a line, in label order",
        )
    return [None if label is None else names[int(label)] for label in labels]


def _image_set(
    paths: Sequence[Path], shards: Sequence[Shard], labels: Sequence[NDArray[np.int64]]
) -> ImageSet:
    counts = [len(shard.keys) for shard in shards]
    keys = Strings(key for shard in shards for key in shard.keys)
    return ImageSet(
        labels=np.concatenate(labels),
        ids=Strings(
            f"{path.stem}/{key}"
            for path, shard in zip(paths, shards, strict=True)
            for key in shard.keys
        ),
        source=ByteRanges(
            files=paths,
            file_of=np.repeat(np.arange(len(paths)), counts),
            starts=np.concatenate([shard.starts for shard in shards]),
            lengths=np.concatenate([shard.lengths for shard in shards]),
            names=keys,
        ),
    )


def _raise_faults(shards: dict[Path, Shard]) -> None:
    faults = [fault for shard in shards.values() for fault in shard.faults]
    faults += [f"{path.name} holds no sample" for path, shard in shards.items() if not shard.keys]
    if faults:
        lines = "".join(f"\n  - {fault}" for fault in faults[:_MOST_LISTED])
        more = f"\n  - and {len(faults) - _MOST_LISTED} more" * (len(faults) > _MOST_LISTED)
        raise DataError(
            f"the shards in {next(iter(shards)).parent} cannot be used:{lines}{more}",
            hint="A sample is KEY.jpg with KEY.cls (its label as a number) in the same tar file",
        )


ADAPTERS: tuple[DatasetAdapter, ...] = ()
OPENERS: tuple[DatasetOpener, ...] = (ShardOpener(),)
