"""Any folder of images: a folder per class, with or without train, val and test above.

The class of an image is the name of the top folder it lies in. Folders are never written to.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from deit_transfer.data.dataset import (
    SPLITS,
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    ImageSet,
    Progress,
    Split,
    printable_name,
)
from deit_transfer.data.readers.file_listing import list_folder, list_images
from deit_transfer.data.splits import SPLIT_NAMES, carve_test
from deit_transfer.errors import DataError, did_you_mean

FOLDER = DatasetInfo(
    name="folder",
    title="Any folder of class folders",
    num_classes=None,
    counts={},
    license="yours",
    source="your own images",
    apply_exif=True,
    access="address",
)

_MOST_LISTED = 50
_LAYOUT = (
    "Lay it out as FOLDER/CLASS/image.jpg, or as FOLDER/train/CLASS/image.jpg with val/ and "
    "test/ beside train/, then name FOLDER"
)

# Class name -> paths of its images, relative to the dataset's folder.
Classes = dict[str, list[str]]


@dataclass
class Survey:
    """The contents of a folder, and what is wrong with it."""

    root: Path
    parts: dict[Split, Classes] = field(default_factory=dict)
    folders: dict[Split, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    nested: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class FolderAdapter:
    """A folder of class folders, or of train/, val/ and test/ folders that hold them.

    Args:
        info: The facts; counts and classes are filled in from what is found.
        for_evaluation: Only score: a folder without splits is all test, and none is needed for
            training.
    """

    info: DatasetInfo = FOLDER
    for_evaluation: bool = False

    def find(self, data_dir: Path) -> Path | None:
        return data_dir if data_dir.is_dir() else None

    def load(self, root: Path | None) -> Dataset:
        if root is None or not root.is_dir():
            raise DataError(f"there is no folder {root}", hint=_LAYOUT)
        survey = _survey(root, for_evaluation=self.for_evaluation)
        _check_classes(survey)
        if survey.faults:
            raise DataError(_listed(root, survey.faults), hint=_hint(survey))
        names, order_note = _class_order(survey)
        splits = {
            split: _image_set(root, classes, names, apply_exif=self.info.apply_exif)
            for split, classes in survey.parts.items()
        }
        notes = [*order_note, *survey.notes, *_skip_notes(survey)]
        if "test" not in splits and not self.for_evaluation:
            splits["train"], splits["test"], said = carve_test(splits["train"], names)
            notes += said
        counts = {split: len(splits[split]) for split in SPLITS if split in splits}
        return Dataset(
            info=replace(
                self.info, title=root.resolve().name, num_classes=len(names), counts=counts
            ),
            class_names=names,
            splits={split: splits[split] for split in counts},
            root=root,
            layout=_layout(survey),
            notes=notes,
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        raise DataError("a folder of your own is not downloaded: name where it lies", hint=_LAYOUT)


def _survey(root: Path, *, for_evaluation: bool) -> Survey:
    """Recognize the layout and list every class folder of every split."""
    survey = Survey(root)
    top = list_folder(root, survey.skipped)
    named = _named_splits(top.folders)
    if not top.folders:
        survey.faults.append(_flat_fault(root, "", len(top.images)))
    elif _has_splits(root, top.folders, named):
        _survey_splits(survey, named, for_evaluation=for_evaluation)
        _note_unused(survey, [name for name in top.folders if name not in named], "folder")
    else:
        _refuse_split_beside_classes(survey, top.folders, named)
        survey.parts["test" if for_evaluation else "train"] = _survey_classes(survey, "")
    if top.folders:
        _note_unused(survey, top.images, "image", "outside class folders")
    return survey


def _named_splits(folders: Sequence[str]) -> dict[str, Split]:
    """Return the folders that are called a split; seg_train/ or training_set/ only if all are."""
    named = {name: SPLIT_NAMES[name.lower()] for name in folders if _is_split(name)}
    if named:
        return named
    meant: dict[str, Split] = {}
    for name in folders:
        words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_NAMES]
        if len(words) == 1:
            meant[name] = SPLIT_NAMES[words[0]]
    return meant if len(meant) == len(folders) and "train" in meant.values() else {}


def _refuse_split_beside_classes(
    survey: Survey, folders: Sequence[str], named: Mapping[str, Split]
) -> None:
    """Refuse test/ beside class folders where it holds folders of the same classes."""
    for name in named:
        inside = set(list_folder(survey.root / name, Counter()).folders)
        shared = sorted(inside & set(folders))
        if shared:
            survey.faults.append(
                f"{name}/ lies beside class folders and holds folders of the same names "
                f"({', '.join(shared[:3])}): it is a split, so put the other folders into train/"
            )


def _has_splits(root: Path, folders: Sequence[str], named: dict[str, Split]) -> bool:
    """Return whether train/ holds class folders, rather than being a class of that name."""
    if not named:
        return False
    if len(named) == len(folders):
        return True
    return any(
        split == "train" and list_folder(root / name, Counter()).folders
        for name, split in named.items()
    )


def _survey_splits(survey: Survey, named: dict[str, Split], *, for_evaluation: bool) -> None:
    for name, split in named.items():
        if split in survey.folders:
            survey.faults.append(f"{survey.folders[split]}/ and {name}/ both mean {split}")
            continue
        inside = list_folder(survey.root / name, Counter())
        if split == "test" and inside.images and not inside.folders:
            survey.notes.append(
                f"{name}/ holds {_many(len(inside.images), 'image')} without class folders, "
                "so without labels: not used"
            )
            continue
        survey.folders[split] = name
        if inside.folders:
            survey.parts[split] = _survey_classes(survey, f"{name}/")
            _note_unused(survey, inside.images, "image", f"in {name}/ outside class folders")
        else:
            survey.faults.append(_flat_fault(survey.root, name, len(inside.images)))
    if "train" not in survey.folders and not for_evaluation:
        survey.faults.append(f"there is {' and '.join(named)} but no train")


def _survey_classes(survey: Survey, prefix: str) -> Classes:
    """List the images of each class folder below `prefix` ("" or "train/")."""
    classes: Classes = {}
    for folder in list_folder(
        survey.root / prefix, survey.skipped if prefix else Counter()
    ).folders:
        name = unicodedata.normalize("NFC", printable_name(folder))
        paths = list_images(survey.root / prefix / folder, survey.skipped, root=survey.root)
        survey.nested += sum("/" in path for path in paths)
        if not paths:
            survey.faults.append(f"class folder {prefix}{name} holds no image")
        if name in classes:
            survey.faults.append(f"two folders are called {prefix}{name} (spelled in other bytes)")
        classes[name] = [f"{prefix}{folder}/{path}" for path in paths]
    return classes


def _check_classes(survey: Survey) -> None:
    """Compare the classes of the splits; train decides which classes there are."""
    train = survey.parts.get("train")
    if train is None:
        return
    if len(train) < 2:
        survey.faults.append(f"only one class, {next(iter(train))}: at least two are needed")
    for split, classes in survey.parts.items():
        where = survey.folders.get(split, split)
        for name in classes.keys() - train.keys():
            guess = did_you_mean(name, train, limit=1)
            survey.faults.append(
                f"class {name!r} is in {where}/ but not in train/. {guess}".strip()
            )
        absent = sorted(train.keys() - classes.keys())
        if absent:
            survey.notes.append(f"{where}/ has no image of {_few(absent, 'class', 'classes')}")


def _class_order(survey: Survey) -> tuple[tuple[str, ...], list[str]]:
    """Order the class names: numbers by value (as text, 10 would come before 2), others as text."""
    found = survey.parts.get("train") or {
        name for classes in survey.parts.values() for name in classes
    }
    if not all(name.isascii() and name.isdecimal() for name in found):
        return tuple(sorted(found)), []
    names = tuple(sorted(found, key=lambda name: (int(name), name)))
    last = len(names) - 1
    return names, [
        f"class folders are numbers, ordered by value: {names[0]} is label 0, "
        f"{names[-1]} is label {last}"
    ]


def _image_set(root: Path, classes: Classes, names: Sequence[str], *, apply_exif: bool) -> ImageSet:
    paths = [path for name in names for path in classes.get(name, ())]
    counts = [len(classes.get(name, ())) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int64), counts)  # (N,)
    # macOS spells accents in other bytes than Linux; an id must not depend on it.
    ids = [unicodedata.normalize("NFC", printable_name(path)) for path in paths]
    unique = ids if len(set(ids)) == len(ids) else paths
    return ImageSet.from_files(root, paths, labels, ids=unique, apply_exif=apply_exif)


def _layout(survey: Survey) -> str:
    if not survey.folders:
        return "one tree of class folders"
    return " ".join(f"{survey.folders[split]}/" for split in SPLITS if split in survey.parts)


def _note_unused(survey: Survey, names: Sequence[str], noun: str, where: str = "") -> None:
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        what = f"{_many(len(names), noun)} {where}".rstrip()
        survey.notes.append(f"not used: {what} ({printable_name(shown)})")


def _many(count: int, noun: str) -> str:
    """Return a count with what is counted: 1 image, 2 images."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _skip_notes(survey: Survey) -> list[str]:
    notes = []
    if survey.skipped:
        counted = ", ".join(f"{count} {what}" for what, count in sorted(survey.skipped.items()))
        notes.append(f"skipped files: {counted}")
    if survey.nested:
        notes.append(f"labeled by the top folder: {_many(survey.nested, 'image')} from deeper ones")
    return notes


def _flat_fault(root: Path, folder: str, num_images: int) -> str:
    place = f"{folder}/" if folder else printable_name(str(root))
    if num_images:
        return f"{place} holds {_many(num_images, 'image')} but no class folders, so no labels"
    return f"{place} holds no images"


def _hint(survey: Survey) -> str:
    """Point at the folder within, where an archive was unpacked into a folder of its own name."""
    folders = list_folder(survey.root, Counter()).folders
    if len(folders) == 1 and folders[0].lower() not in SPLIT_NAMES:
        inner = survey.root / folders[0]
        if list_folder(inner, Counter()).folders:
            return f"Did you mean {inner}? {_LAYOUT}"
    return _LAYOUT


def _listed(root: Path, faults: Sequence[str]) -> str:
    lines = "".join(f"\n  - {fault}" for fault in faults[:_MOST_LISTED])
    more = f"\n  - and {len(faults) - _MOST_LISTED} more" if len(faults) > _MOST_LISTED else ""
    return f"the images in {printable_name(str(root))} cannot be used:{lines}{more}"


def _few(names: Sequence[str], one: str, many: str) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {one if len(names) == 1 else many} ({shown})"


def _is_split(name: str) -> bool:
    return name.lower() in SPLIT_NAMES


ADAPTERS: tuple[DatasetAdapter, ...] = (FolderAdapter(),)
