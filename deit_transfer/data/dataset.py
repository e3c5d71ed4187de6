"""The dataset protocol: facts, splits of images, and the adapter that loads them.

Nothing here decodes, downloads or shuffles. Everything can be pickled, and is held in a few
contiguous arrays, so that forked loader workers share it instead of copying it page by page
(a list of a million strings is copied as soon as its reference counts are touched).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# "download": fetched when first used; "on request": large, fetched by `data prepare` only;
# "address": one names one's own.
Access = Literal["embedded", "download", "on request", "by hand", "address"]

# Called with the bytes (of what is fetched, unpacked or listed) or images (of what is decoded)
# done so far, and the total (0: unknown). It may raise to stop.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The facts of a dataset, known before any of it is read.

    `num_classes` is None and `counts` is empty where only the files can tell (any folder).
    `apply_exif` says whether pictures are turned upright when decoded, whatever they are read from:
    yes for people's own photos, no for the benchmarks, whose published figures were measured
    without it.
    """

    name: str
    title: str
    num_classes: int | None
    counts: dict[Split, int]
    license: str
    source: str
    headline: str = "top1"
    apply_exif: bool = False
    access: Access = "by hand"
    download_mb: int | None = None


def printable_name(name: str) -> str:
    """Spell out the bytes of a file name that is not UTF-8, which no screen or file can take."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Strings(Sequence[str]):
    """Many strings in one block of UTF-8 bytes, shared by forked processes."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        lengths = np.fromiter((len(part) for part in encoded), np.int64, count=len(encoded))
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self._block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Strings": ...

    def __getitem__(self, index: int | slice) -> "str | Strings":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        part = self._block[self._starts[index] : self._ends[index]]
        return part.decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: NDArray[np.int64]) -> "Strings":
        """Return the strings at `indices`, sharing this block."""
        taken = object.__new__(Strings)
        taken._block = self._block
        taken._starts, taken._ends = self._starts[indices], self._ends[indices]
        return taken


class LabelSets:
    """The correct labels of N images that may have several each, in two arrays."""

    def __init__(self, sets: Iterable[Sequence[int]]) -> None:
        parts = [np.asarray(part, np.int64) for part in sets]
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._values = np.concatenate([*parts, np.zeros(0, np.int64)])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        start = self._ends[index - 1] if index else 0
        return self._values[start : self._ends[index]]

    def take(self, indices: NDArray[np.int64]) -> "LabelSets":
        """Return the sets of the images at `indices`."""
        return LabelSets(self[int(index)].tolist() for index in indices)

    def renumber(self, new_labels: NDArray[np.int64]) -> "LabelSets":
        """Return the sets with every label replaced by `new_labels[label]`; below 0: left out."""
        renumbered = (new_labels[self[index]] for index in range(len(self)))
        return LabelSets(labels[labels >= 0].tolist() for labels in renumbered)

    def mask(self, num_classes: int) -> NDArray[np.bool_]:
        """Return which of K answers are right for each image, (N, K)."""
        right = np.zeros((len(self), num_classes), np.bool_)
        rows = np.repeat(np.arange(len(self)), np.diff(self._ends, prepend=0))
        right[rows, self._values] = True
        return right


class ImageSource(Protocol):
    """The raw images of a split, by position."""

    def read(self, position: int) -> bytes | NDArray[np.uint8]:
        """Return an encoded file's bytes, or pixels (H, W, 3)."""

    def where(self, position: int) -> str:
        """Name the place an image is read from, for messages."""

    def size(self, position: int) -> int:
        """Return how many bytes `read` would deliver, without reading them."""


class ImageSet:
    """One split: labels, stable ids and where to read each image.

    Args:
        labels: (N,) int64 in 0..K-1.
        ids: N strings that name the images; unique, and the same on every machine.
        source: Where images are read; shared, never copied, by `subset`.
        positions: (N,) place of each image in `source`; in order when None.
        apply_exif: Whether a decoded image is turned upright.
        gray_white: The value of deep gray images (of more than 8 bits) that is white.
        label_sets: All the right answers, where an image may have several; `labels` then holds
            one of them, and scoring goes by the sets.
    """

    def __init__(
        self,
        *,
        labels: NDArray[np.int64],
        ids: Sequence[str],
        source: ImageSource,
        positions: NDArray[np.int64] | None = None,
        apply_exif: bool = False,
        gray_white: int = 65535,
        label_sets: LabelSets | None = None,
    ) -> None:
        if len(labels) != len(ids):
            raise ValueError(f"{len(labels)} labels for {len(ids)} ids")
        self.labels: NDArray[np.int64] = np.asarray(labels, np.int64)
        self.ids: Strings = ids if isinstance(ids, Strings) else Strings(ids)
        self.source = source
        self.positions = np.arange(len(labels)) if positions is None else positions
        self.apply_exif = apply_exif
        self.gray_white = gray_white
        self.label_sets = label_sets

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        ids: Sequence[str] | None = None,
        name: str = "image",
    ) -> "ImageSet":
        """Make a split of images (N, H, W, 3) that are in memory."""
        names = [f"{name}-{i:05d}" for i in range(len(labels))] if ids is None else ids
        return cls(labels=labels, ids=names, source=Pixels(images, name))

    @classmethod
    def from_files(
        cls,
        folder: Path,
        paths: Sequence[str],
        labels: NDArray[np.int64],
        *,
        ids: Sequence[str] | None = None,
        apply_exif: bool = False,
    ) -> "ImageSet":
        """Make a split of image files, by paths with forward slashes below `folder`."""
        packed = Strings(paths)
        names = packed if ids is None else ids
        return cls(labels=labels, ids=names, source=Files(folder, packed), apply_exif=apply_exif)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return image `index` as the source has it: encoded bytes or pixels (H, W, 3)."""
        return self.source.read(int(self.positions[index]))

    def where(self, index: int) -> str:
        """Name the file or record of image `index`, for messages."""
        return self.source.where(int(self.positions[index]))

    def size(self, index: int) -> int:
        """Return how many bytes `read` would deliver."""
        return self.source.size(int(self.positions[index]))

    def subset(self, indices: NDArray[np.int64] | Sequence[int]) -> "ImageSet":
        """Return the images at `indices`, in that order; pixels and files stay shared."""
        chosen = np.asarray(indices, np.int64)
        sets = self.label_sets.take(chosen) if self.label_sets is not None else None
        return self._with(self.labels[chosen], chosen, sets)

    def renumber(self, new_labels: NDArray[np.int64]) -> "ImageSet":
        """Return the same images with every label replaced by `new_labels[label]`."""
        sets = self.label_sets.renumber(new_labels) if self.label_sets is not None else None
        return self._with(new_labels[self.labels], np.arange(len(self)), sets)

    def shown(self, *, apply_exif: bool, gray_white: int) -> "ImageSet":
        """Return the same images, decoded in this way."""
        images = self._with(self.labels, np.arange(len(self)), self.label_sets)
        images.apply_exif, images.gray_white = apply_exif, gray_white
        return images

    def _with(
        self, labels: NDArray[np.int64], chosen: NDArray[np.int64], sets: LabelSets | None
    ) -> "ImageSet":
        return ImageSet(
            labels=labels,
            ids=self.ids.take(chosen),
            source=self.source,
            positions=self.positions[chosen],
            apply_exif=self.apply_exif,
            gray_white=self.gray_white,
            label_sets=sets,
        )


def join(parts: Sequence[ImageSet]) -> ImageSet:
    """Return the images of several splits as one, in the order given."""
    return ImageSet(
        labels=np.concatenate([part.labels for part in parts]),
        ids=Strings(name for part in parts for name in part.ids),
        source=Joined(parts),
        apply_exif=parts[0].apply_exif,
        gray_white=parts[0].gray_white,
    )


class Pixels:
    """Images that lie decoded in one array (N, H, W, 3)."""

    def __init__(self, images: NDArray[np.uint8], name: str) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}"
            )
        self.images = images
        self.name = name

    def read(self, position: int) -> NDArray[np.uint8]:
        return self.images[position]  # (H, W, 3)

    def where(self, position: int) -> str:
        return f"{self.name} {position}"

    def size(self, position: int) -> int:
        return int(self.images[position].nbytes)


class Files:
    """Image files by their paths below one folder."""

    def __init__(self, folder: Path, paths: Strings) -> None:
        self.folder = folder
        self.paths = paths

    def read(self, position: int) -> bytes:
        return (self.folder / self.paths[position]).read_bytes()

    def where(self, position: int) -> str:
        return printable_name(str(self.folder / self.paths[position]))

    def size(self, position: int) -> int:
        return (self.folder / self.paths[position]).stat().st_size


class Joined:
    """The images of several splits, one after the other."""

    def __init__(self, parts: Sequence[ImageSet]) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def read(self, position: int) -> bytes | NDArray[np.uint8]:
        part, index = self._find(position)
        return part.read(index)

    def where(self, position: int) -> str:
        part, index = self._find(position)
        return part.where(index)

    def size(self, position: int) -> int:
        part, index = self._find(position)
        return part.size(index)

    def _find(self, position: int) -> tuple[ImageSet, int]:
        number = int(np.searchsorted(self._ends, position, side="right"))
        part = self.parts[number]
        return part, position - int(self._ends[number]) + len(part)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A loaded dataset: its class names in label order and its splits.

    `layout` says in a few words what was found on disk; `notes` what the user should know
    about how it was read (skipped files, carved splits, checksums that differ). `groups` names
    the coarser group of each class, in label order: the coarse labels of CIFAR-100, the
    super-categories of iNaturalist; empty where the dataset has none.
    """

    info: DatasetInfo
    class_names: tuple[str, ...]
    splits: dict[Split, ImageSet]
    root: Path | None = None
    layout: str = ""
    notes: list[str] = field(default_factory=list)
    groups: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class DatasetAdapter(Protocol):
    """Loads one dataset from disk; one file of `adapters/` holds one family."""

    @property
    def info(self) -> DatasetInfo: ...

    def find(self, data_dir: Path) -> Path | None:
        """Return the folder below (or at) `data_dir` that holds the dataset, if it is there."""

    def load(self, root: Path | None) -> Dataset:
        """Read the dataset; raises DataError when it is incomplete or contradicts itself."""

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        """Fetch what is missing of the dataset below `data_dir`, and return where it lies.

        Raises:
            DataError: It cannot be fetched; the hint says how to get it by hand.
        """


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choices that only some datasets offer, with their defaults.

    Args:
        rank: What counts as a class, in datasets with a taxonomy.
        class_order: "id", the dataset's own numbering, or "deit", that of the reference code.
    """

    rank: str = "species"
    class_order: str = "id"


@runtime_checkable
class Configurable(Protocol):
    """The method of an adapter that offers `Options`."""

    def configured(self, options: Options) -> DatasetAdapter:
        """Return the adapter that reads the dataset as the options say."""


class DatasetOpener(Protocol):
    """Opens datasets that are named by an address: hf:..., wds:..., or a table's path."""

    @property
    def info(self) -> DatasetInfo: ...

    def accepts(self, address: str) -> bool:
        """Return whether the address is of this kind; it need not be readable."""

    def published_name(self, address: str) -> str | None:
        """Return the name in the catalog of the dataset that the address is a copy of."""

    def open(
        self, address: str, *, for_evaluation: bool = False, progress: Progress | None = None
    ) -> Dataset:
        """Read the dataset; raises DataError or UsageError where it cannot be."""
