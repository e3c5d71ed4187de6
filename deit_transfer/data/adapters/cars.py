"""Stanford Cars, in each of the layouts in which it is still passed on.

Labels come from the authors' annotation files or, in copies sorted by class, from the folders.
The competition's test annotations without labels are recognized and refused by name.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import (
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    ImageSet,
    Progress,
    Split,
)
from deit_transfer.data.readers.file_listing import list_folder, list_images
from deit_transfer.data.readers.layout_checks import (
    cannot_use,
    count_faults,
    missing_fault,
    missing_files,
    read_mat,
    shipped_names,
)
from deit_transfer.errors import DataError

_FOLDERS = ("stanford_cars", "stanford-cars", "cars", "car_data")
_TRAIN = "cars_train_annos.mat"
_TEST = "cars_test_annos_withlabels.mat"
_UNLABELED = "cars_test_annos.mat"
_META = "cars_meta.mat"
_ALL = "cars_annos.mat"
_HUB_COPY = "hf:tanganke/stanford_cars@9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"
_HOW = (
    "The authors' page is gone. The copy on the Hugging Face hub needs no manual download: "
    f"deit-transfer finetune {_HUB_COPY}. Or put devkit/ ({_META}, {_TRAIN}), {_TEST}, cars_train/ "
    "and cars_test/ into one folder (mirrors are listed in github.com/pytorch/vision/issues/7545), "
    "then type: deit-transfer data check cars --data-dir FOLDER"
)

CARS = DatasetInfo(
    name="cars",
    title="Stanford Cars",
    num_classes=196,
    counts={"train": 8144, "test": 8041},
    license="research only; cite Krause et al. 2013",
    source="Krause, Stark, Deng, Fei-Fei 2013; https://ai.stanford.edu/~jkrause/cars (gone)",
    access="by hand",
)


class MatRows(NamedTuple):
    """One split of an annotation file: paths below the root, and labels (N,) from 0."""

    paths: list[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CarsAdapter:
    """Stanford Cars: devkit, car_ims with one annotation file, or folders by class."""

    info: DatasetInfo = CARS
    class_names: tuple[str, ...] = field(default_factory=lambda: shipped_names("cars"))

    def find(self, data_dir: Path) -> Path | None:
        for folder in (data_dir, *(data_dir / name for name in _FOLDERS)):
            has_files = _annotations(folder, _TRAIN) or (folder / _ALL).is_file()
            if has_files or (folder / "cars_train").is_dir() or self._is_by_class(folder):
                return folder
        return None

    def load(self, root: Path | None) -> Dataset:
        if root is None:
            raise DataError(f"{self.info.name} was not found", hint=_HOW)
        faults: list[str] = []
        if _annotations(root, _TRAIN) or (root / "cars_train").is_dir():
            layout, rows = "devkit annotations", self._read_devkit(root, faults)
        elif (root / _ALL).is_file():
            layout, rows = f"car_ims/ with {_ALL}", self._read_one_file(root, faults)
        else:
            layout, rows = "one folder a class", self._read_by_class(root, faults)
        if not faults:
            faults += self._faults(root, rows)
        if faults:
            raise cannot_use(self.info, root, faults, hint=_HOW)
        return Dataset(
            info=self.info,
            class_names=self.class_names,
            splits={
                split: ImageSet.from_files(root, paths, labels)
                for split, (paths, labels) in rows.items()
            },
            root=root,
            layout=layout,
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        raise DataError(f"{self.info.name} was not found in {data_dir}", hint=_HOW)

    def _read_devkit(self, root: Path, faults: list[str]) -> dict[Split, MatRows]:
        rows: dict[Split, MatRows] = {}
        files: dict[Split, str] = {"train": _TRAIN, "test": _TEST}
        for split, name in files.items():
            path = _annotations(root, name)
            if path is None:
                faults.append(_no_labels(root) if split == "test" else f"{name} is missing")
                continue
            images = _image_folder(root, f"cars_{split}")
            if records := self._records(path, ("fname", "class"), faults):
                names = [f"{images}/{record}" for record in records["fname"]]
                rows[split] = MatRows(names, records["class"].astype(np.int64) - 1)
        meta = _annotations(root, _META)
        if meta is not None:
            self._check_names(meta, faults)
        return rows

    def _read_one_file(self, root: Path, faults: list[str]) -> dict[Split, MatRows]:
        path = root / _ALL
        records = self._records(path, ("relative_im_path", "class", "test"), faults)
        if not records:
            return {}
        self._check_names(path, faults)
        is_test = records["test"].astype(np.int64) == 1
        parts: dict[Split, NDArray[np.bool_]] = {"train": ~is_test, "test": is_test}
        return {
            split: MatRows(
                records["relative_im_path"][chosen].tolist(),
                records["class"][chosen].astype(np.int64) - 1,
            )
            for split, chosen in parts.items()
        }

    def _read_by_class(self, root: Path, faults: list[str]) -> dict[Split, MatRows]:
        numbers = {_folder_name(name): label for label, name in enumerate(self.class_names)}
        rows: dict[Split, MatRows] = {}
        splits: tuple[Split, ...] = ("train", "test")
        for split in splits:
            paths: list[str] = []
            labels: list[int] = []
            folders = list_folder(root / split, Counter()).folders
            for folder in folders:
                if folder not in numbers:
                    faults.append(f"{split}/{folder} is no class of Stanford Cars")
                    continue
                inside = list_images(root / split / folder, Counter(), root=root)
                paths += [f"{split}/{folder}/{name}" for name in inside]
                labels += [numbers[folder]] * len(inside)
            absent = sorted(numbers.keys() - set(folders))
            faults += missing_fault(absent, len(numbers), f"class folders of {split}/")
            order = np.argsort(np.array(labels, np.int64), kind="stable")
            rows[split] = MatRows([paths[i] for i in order], np.array(labels, np.int64)[order])
        return rows

    def _records(
        self, path: Path, columns: tuple[str, ...], faults: list[str]
    ) -> dict[str, NDArray[Any]]:
        """Return the named columns of an annotation file, or nothing and a fault."""
        try:
            content = read_mat(path).get("annotations")
        except (OSError, ValueError) as error:
            faults.append(f"{path.name}: {error}")
            return {}
        names = getattr(getattr(content, "dtype", None), "names", None) or ()
        absent = [column for column in columns if column not in names]
        if absent == ["class"]:
            faults.append(f"{path.name} has no labels: it is the competition's file")
        elif absent:
            faults.append(f"{path.name}: no {', '.join(absent)} in its annotations")
        if absent or content is None:
            return {}
        records = np.atleast_1d(content)
        return {column: records[column] for column in columns}

    def _check_names(self, path: Path, faults: list[str]) -> None:
        try:
            names = read_mat(path).get("class_names")
        except (OSError, ValueError) as error:
            faults.append(f"{path.name}: {error}")
            return
        if names is None or len(np.atleast_1d(names)) != len(self.class_names):
            count = 0 if names is None else len(np.atleast_1d(names))
            faults.append(f"{path.name} names {count} classes, expected {len(self.class_names)}")

    def _faults(self, root: Path, rows: dict[Split, MatRows]) -> list[str]:
        faults = count_faults(self.info, {split: len(part.paths) for split, part in rows.items()})
        for split, (paths, labels) in rows.items():
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.class_names):
                faults.append(f"{split} has labels outside 1..{len(self.class_names)}")
            faults += missing_fault(missing_files(root, paths), len(paths), f"{split} images")
        return faults

    def _is_by_class(self, folder: Path) -> bool:
        """Return whether at least half of this set's class folders are there."""
        if not (folder / "train").is_dir() or not (folder / "test").is_dir():
            return False
        ours = {_folder_name(name) for name in self.class_names}
        found = ours & set(list_folder(folder / "train", Counter()).folders)
        return 2 * len(found) >= len(ours)


def _annotations(root: Path, name: str) -> Path | None:
    """Return an annotation file: inside devkit/, where some put it, or beside."""
    for path in (root / "devkit" / name, root / name):
        if path.is_file():
            return path
    return None


def _image_folder(root: Path, name: str) -> str:
    """Return cars_train, or the folder of that name inside it that one mirror's archive makes."""
    return f"{name}/{name}" if (root / name / name).is_dir() else name


def _no_labels(root: Path) -> str:
    unlabeled = _annotations(root, _UNLABELED)
    if unlabeled is None:
        return f"{_TEST} is missing: without it the test images have no labels"
    place = unlabeled.relative_to(root)
    return f"{place} has no labels, as it was made for a competition; {_TEST} has them"


def _folder_name(name: str) -> str:
    return name.replace("/", "-")  # "Ram C/V Cargo Van", the one name that is no folder's


ADAPTERS: tuple[DatasetAdapter, ...] = (CarsAdapter(),)
