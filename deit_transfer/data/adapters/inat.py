"""iNaturalist 2018 and 2019: one tree of images, split by JSON files.

Classes follow the category ids, or on demand the order in which the DeiT code meets them. The
competitions' test images have no labels; their validation images are what everyone reports on.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import (
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    ImageSet,
    Options,
    Progress,
    Split,
)
from deit_transfer.data.fetch.download import RemoteFile, extract_tar, fetch
from deit_transfer.data.readers.layout_checks import (
    cannot_use,
    count_faults,
    missing_fault,
    missing_files,
)
from deit_transfer.errors import DataError, UsageError, did_you_mean

_SITE = "https://ml-inat-competition-datasets.s3.amazonaws.com"
_LICENSE = "non-commercial; research and education, no redistribution"
_MAX_UNPACKED_BYTES = 250_000_000_000

SPECIES = "species"
# Level as people say it -> field of a category, coarsest last.
RANKS = {
    SPECIES: "name",
    "genus": "genus",
    "family": "family",
    "order": "order",
    "class": "class",
    "phylum": "phylum",
    "kingdom": "kingdom",
    "supercategory": "supercategory",
}


class Annotations(NamedTuple):
    """One JSON file: image paths, the category id of each image, and the categories."""

    paths: list[str]
    category_ids: NDArray[np.int64]
    categories: list[dict[str, Any]]


class Classes(NamedTuple):
    """The classes of a taxonomic rank: names, the class of each category, coarser groups."""

    names: tuple[str, ...]
    of_category: dict[int, int]
    groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class INatAdapter:
    """One year of iNaturalist, with or without folders for super-categories.

    Args:
        info: The facts, required of the files.
        year: "2018" or "2019"; part of every file's name.
        md5: Published checksum of each archive; "" where none is published.
        other_counts: Split sizes that are known too, and accepted with a note.
        rank: What counts as a class; see RANKS.
        class_order: "id" or "deit" (order of first appearance in the training annotations).
    """

    info: DatasetInfo
    year: str
    md5: dict[str, str]
    other_counts: dict[Split, int] | None = None
    rank: str = SPECIES
    class_order: str = "id"

    @property
    def _tree(self) -> str:
        return f"train_val{self.year}"

    @property
    def _json(self) -> dict[Split, str]:
        return {"train": f"train{self.year}.json", "test": f"val{self.year}.json"}

    def configured(self, options: Options) -> DatasetAdapter:
        """Return the adapter for another rank or class order."""
        if options.rank not in RANKS:
            guess = did_you_mean(options.rank, RANKS)
            raise UsageError(
                f"there is no rank {options.rank!r}. {guess}".rstrip(),
                hint=f"Ranks: {', '.join(RANKS)}. For example: --rank genus",
            )
        return replace(self, rank=options.rank, class_order=options.class_order)

    def find(self, data_dir: Path) -> Path | None:
        names = (self.info.name, f"inat_{self.year}", f"inaturalist{self.year}", self.year)
        for folder in (data_dir, *(data_dir / name for name in names)):
            if self._is_started(folder):
                return folder
        # its folders look like those of anyone's classes, and are super-categories
        return data_dir.parent if data_dir.name == self._tree else None

    def load(self, root: Path | None) -> Dataset:
        if root is None:
            raise DataError(f"{self.info.name} was not found", hint=self._by_hand(None))
        faults: list[str] = []
        parts = {split: self._read_json(root / name, faults) for split, name in self._json.items()}
        if faults:
            raise cannot_use(self.info, root, faults, hint=self._by_hand(root))
        train, test = parts["train"], parts["test"]
        categories, named_by = self._categories(root, train)
        classes = self._classes(categories, train)
        counts = {split: len(part.paths) for split, part in parts.items()}
        faults += self._count_faults(counts) + _category_faults(parts, classes)
        place = self._place(root, train.paths)
        for split, part in parts.items():
            paths = [place(path) for path in part.paths]
            faults += missing_fault(missing_files(root, paths), len(paths), f"{split} images")
        if faults:
            raise cannot_use(self.info, root, faults, hint=self._by_hand(root))
        return Dataset(
            info=replace(self.info, num_classes=len(classes.names), counts=counts),
            class_names=classes.names,
            splits={
                "train": self._image_set(root, train, place, classes),
                "test": self._image_set(root, test, place, classes),
            },
            root=root,
            layout=place.layout,
            notes=self._notes(counts, named_by, classes),
            groups=classes.groups,
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        """Fetch and unpack what is missing: the JSON files first, as they are small."""
        folder = self.find(data_dir) or data_dir / self.info.name
        by_hand = self._by_hand(folder)
        for archive, md5 in self.md5.items():
            member = archive.removesuffix(".tar.gz")
            if (folder / member).exists():
                continue
            remote = RemoteFile(url=f"{_SITE}/{self.year}/{archive}", algorithm="md5", checksum=md5)
            path = fetch(remote, folder, progress=progress, by_hand=by_hand)
            extract_tar(
                path,
                folder / member,
                member=member,
                max_bytes=_MAX_UNPACKED_BYTES,
                progress=progress,
                by_hand=by_hand,
            )
        return folder

    def _is_started(self, folder: Path) -> bool:
        json_files = (folder / name for name in self._json.values())
        return (folder / self._tree).is_dir() or any(path.is_file() for path in json_files)

    def _read_json(self, path: Path, faults: list[str]) -> Annotations:
        nothing = Annotations([], np.zeros(0, np.int64), [])
        if not path.is_file():
            faults.append(f"{path.name} is missing: it holds the labels of the images")
            return nothing
        try:
            content = json.loads(path.read_bytes())
            category = {entry["image_id"]: entry["category_id"] for entry in content["annotations"]}
            paths = [image["file_name"] for image in content["images"]]
            ids = [category.get(image["id"], -1) for image in content["images"]]
        except (ValueError, KeyError, TypeError) as error:
            faults.append(
                f"{path.name}: damaged or no annotations ({type(error).__name__}: {error})"
            )
            return nothing
        if -1 in ids:
            faults.append(
                f"{path.name}: {ids.count(-1):,} of {len(ids):,} images have no label, as in the "
                "competition's test files"
            )
        return Annotations(paths, np.array(ids, np.int64), content.get("categories") or [])

    def _categories(self, root: Path, train: Annotations) -> tuple[list[dict[str, Any]], str]:
        """Return the categories by id: with their real names, where that file lies here."""
        path = root / "categories.json"
        if path.is_file():
            try:
                found = json.loads(path.read_bytes())
                return sorted(found, key=lambda category: int(category["id"])), path.name
            except (ValueError, KeyError, TypeError) as error:
                raise cannot_use(
                    self.info, root, [f"{path.name}: {error}"], hint=self._by_hand(root)
                ) from error
        return sorted(train.categories, key=lambda category: int(category["id"])), ""

    def _classes(self, categories: Sequence[dict[str, Any]], train: Annotations) -> Classes:
        """Number the classes: each a category, or all categories of one genus, family, ..."""
        key = RANKS[self.rank]
        if not categories or any(key not in category for category in categories):
            known = [rank for rank, name in RANKS.items() if categories and name in categories[0]]
            raise DataError(
                f"the categories of {self.info.name} have no {self.rank}",
                hint=f"Levels here: {', '.join(known) or 'none'}. For example: "
                f"--rank {known[-1] if known else SPECIES}",
            )
        names = {int(category["id"]): str(category[key]) for category in categories}
        if self.rank == SPECIES:
            twice = {name for name, count in Counter(names.values()).items() if count > 1}
            names = {i: f"{name} ({i})" if name in twice else name for i, name in names.items()}
        met = train.category_ids.tolist() if self.class_order == "deit" else []
        ordered = [*dict.fromkeys(met), *sorted(names.keys() - set(met))]
        numbers: dict[str, int] = {}
        for category_id in ordered:
            numbers.setdefault(names.get(category_id, ""), len(numbers))
        group_of_category = _super_categories(categories, train)
        group = {name: group_of_category[category_id] for category_id, name in names.items()}
        return Classes(
            names=tuple(numbers),
            of_category={i: numbers[name] for i, name in names.items()},
            groups=tuple(group.get(name, "") for name in numbers),
        )

    def _place(self, root: Path, paths: Sequence[str]) -> "ImagePlace":
        """Find out by the first image whether the tree has folders for super-categories."""
        first = paths[0] if paths else ""
        if not (root / first).is_file() and (root / _flattened(first)).is_file():
            return ImagePlace(flat=True, layout="JSON with the tree without super-categories")
        return ImagePlace(flat=False, layout="JSON with the official tree")

    def _image_set(
        self, root: Path, part: Annotations, place: "ImagePlace", classes: Classes
    ) -> ImageSet:
        labels = [classes.of_category[category] for category in part.category_ids.tolist()]
        # The ids are the JSON's own names: the same whatever the tree looks like here.
        return ImageSet.from_files(
            root, [place(path) for path in part.paths], np.array(labels, np.int64), ids=part.paths
        )

    def _count_faults(self, counts: dict[Split, int]) -> list[str]:
        return [] if counts == self.other_counts else count_faults(self.info, counts)

    def _notes(self, counts: dict[Split, int], named_by: str, classes: Classes) -> list[str]:
        notes = ["test is the official validation set: the competition's test labels are secret"]
        if not named_by:
            notes.append(
                "class names are obfuscated: categories.json, which has the real ones, is not here"
            )
        if self.rank != SPECIES:
            notes.append(f"classes are {len(classes.names):,} of the rank {self.rank}")
        if self.class_order == "deit":
            notes.append("classes are in the order in which the DeiT code meets them")
        if counts != self.info.counts:
            notes.append(
                f"split sizes {counts} are the paper's, not the published {dict(self.info.counts)}"
            )
        return notes

    def _by_hand(self, folder: Path | None) -> str:
        place = folder if folder is not None else "FOLDER"
        return (
            f"{self._tree}/, {' and '.join(self._json.values())} belong into one folder; they come "
            f"from {_SITE}/{self.year}/. What is missing is fetched by: deit-transfer data prepare "
            f"{self.info.name} --data-dir {place}"
        )


@dataclass(frozen=True)
class ImagePlace:
    """Where the tree found here holds an image that the JSON names."""

    flat: bool
    layout: str

    def __call__(self, path: str) -> str:
        return _flattened(path) if self.flat else path


def _flattened(path: str) -> str:
    """Leave the super-category out: train_val2018/Aves/2761/x.jpg -> train_val2018/2761/x.jpg."""
    if path.count("/") < 2:
        return path
    tree, *_, category, name = path.split("/")
    return f"{tree}/{category}/{name}"


def _super_categories(categories: Sequence[dict[str, Any]], train: Annotations) -> dict[int, str]:
    """Return the super-category of each category: its own field, or its folder's parent.

    The categories of 2019 lack the field, and the official tree has the folders in both years.
    """
    folders = {
        category_id: path.split("/")[1]
        for path, category_id in zip(train.paths, train.category_ids.tolist(), strict=True)
        if path.count("/") == 3
    }
    found: dict[int, str] = {}
    for category in categories:
        number = int(category["id"])
        own = category.get("supercategory") or folders.get(number) or category.get("kingdom")
        found[number] = str(own or "")
    return found


def _category_faults(parts: dict[Split, Annotations], classes: Classes) -> list[str]:
    faults = []
    for split, part in parts.items():
        unknown = sorted(set(part.category_ids.tolist()) - classes.of_category.keys())
        if unknown:
            faults.append(f"{split} names categories that are not defined, such as {unknown[0]}")
    both = set(parts["train"].paths) & set(parts["test"].paths)
    if both:
        faults.append(f"{len(both):,} images are in both JSON files, such as {min(both)}")
    return faults


def _adapter(
    year: str,
    *,
    num_classes: int,
    train: int,
    val: int,
    gb: int,
    md5: tuple[str, ...],
    other_counts: dict[Split, int] | None = None,
) -> INatAdapter:
    archives = (f"train{year}.json", f"val{year}.json", "categories.json", f"train_val{year}")
    return INatAdapter(
        info=DatasetInfo(
            name=f"inat{year}",
            title=f"iNaturalist {year}",
            num_classes=num_classes,
            counts={"train": train, "test": val},
            license=_LICENSE,
            source=f"https://github.com/visipedia/inat_comp/tree/master/{year}",
            access="on request",
            download_mb=gb * 1000,
        ),
        year=year,
        md5={f"{name}.tar.gz": value for name, value in zip(archives, md5, strict=True)},
        other_counts=other_counts,
    )


# Checksums and counts: the READMEs of visipedia/inat_comp; three validation images a class.
INAT2018 = _adapter(
    "2018",
    num_classes=8142,
    train=437_513,
    val=24_426,
    gb=120,
    md5=(
        "bfa29d89d629cbf04d826a720c0a68b0",
        "f2ed8bfe3e9901cdefceb4e53cd3775d",
        "",
        "b1c6952ce38f31868cc50ea72d066cc3",
    ),
)
INAT2019 = _adapter(
    "2019",
    num_classes=1010,
    train=265_213,
    val=3_030,
    gb=74,
    md5=(
        "b06a6683537867c0d5c7a45f407a306d",
        "5cc5509b0fe495f1c8c1362612448497",
        "",
        "c60a6e2962c9b8ccbd458d12c8582644",
    ),
    other_counts={"train": 265_240, "test": 3_003},  # DeiT paper's table of datasets
)

ADAPTERS: tuple[DatasetAdapter, ...] = (INAT2018, INAT2019)
