"""Tables of images: a CSV, TSV or parquet file with columns path, label and maybe split.

Paths are below the table's own folder, or absolute. Images are never copied or moved.
"""

import csv
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deit_transfer.data.adapters.hf import read_parquet
from deit_transfer.data.dataset import (
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    DatasetOpener,
    ImageSet,
    Progress,
    Split,
)
from deit_transfer.data.labels import case_notes, clean_labels, clean_name, number_labels
from deit_transfer.data.readers.layout_checks import missing_fault, missing_files
from deit_transfer.data.readers.parquet import column_names, is_table_of_images, read_columns
from deit_transfer.data.splits import SPLIT_NAMES, settle_splits
from deit_transfer.errors import DataError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_PATH, _LABEL, _SPLIT = "path", "label", "split"
_MOST_LISTED = 20
_FORM = (
    "A table has a first line with the columns path, label and, if you like, split (train, val or "
    "test); a path is below the table's folder. For example: cats/1.jpg,cat,train"
)

TABLE = DatasetInfo(
    name="TABLE.csv",
    title="A table path,label[,split] as CSV, TSV or parquet",
    num_classes=None,
    counts={},
    license="yours",
    source="your own images",
    apply_exif=True,
    access="address",
)


@dataclass(frozen=True, kw_only=True)
class TableOpener:
    """A table of image paths, or one parquet file of images."""

    info: DatasetInfo = TABLE

    def accepts(self, address: str) -> bool:
        path = Path(address).expanduser()
        return path.suffix.lower() in (*_DELIMITERS, ".parquet") and not path.is_dir()

    def published_name(self, address: str) -> str | None:
        return None  # nothing in it says whose images these are

    def open(
        self, address: str, *, for_evaluation: bool = False, progress: Progress | None = None
    ) -> Dataset:
        path = Path(address).expanduser()
        if not path.is_file():
            raise DataError(f"there is no table {path}", hint=f"Check its path. {_FORM}")
        info = replace(TABLE, name=str(path), title=path.name)
        if path.suffix.lower() == ".parquet" and is_table_of_images(path):
            return read_parquet(
                [path], path.parent, info=info, for_evaluation=for_evaluation, progress=progress
            )
        columns = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
        return _dataset(path, columns, info, for_evaluation=for_evaluation)


def _read_text(path: Path) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(
                file, delimiter=_DELIMITERS[path.suffix.lower()], skipinitialspace=True, strict=True
            )
            names = [name.strip().lower() for name in reader.fieldnames or ()]
            _check_columns(path, names)
            reader.fieldnames = names
            rows = []
            for row in reader:
                _check_fields(path, row, reader.line_num, names)
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}", hint=_FORM) from error
    wanted = [name for name in (_PATH, _LABEL, _SPLIT) if name in names]
    return {name: [(row[name] or "").strip() for row in rows] for name in wanted}


def _check_fields(path: Path, row: Mapping[str | None, Any], line: int, names: list[str]) -> None:
    """Refuse a row with more or fewer fields than the header: a comma in a label cuts it."""
    extra, absent = row.get(None, []), [name for name in names if row[name] is None]
    if extra or absent:
        count = len(names) + len(extra) - len(absent)
        raise DataError(
            f"line {line} of {path} has {count} fields, and the header {len(names)}",
            hint='Put a value with a comma in quotes: img/1.jpg,"maple, red"',
        )


def _read_parquet(path: Path) -> dict[str, list[str]]:
    names = column_names(path)
    _check_columns(path, names)
    columns = read_columns(path, [name for name in (_PATH, _LABEL, _SPLIT) if name in names])
    columns[_LABEL] = clean_labels(columns[_LABEL], source=f"column {_LABEL} of {path}")
    return {
        name: ["" if value is None else str(value) for value in values]
        for name, values in columns.items()
    }


def _check_columns(path: Path, names: Sequence[str]) -> None:
    absent = [name for name in (_PATH, _LABEL) if name not in names]
    if absent:
        found = ", ".join(names) or "nothing"
        raise DataError(f"{path} has no column {' and '.join(absent)}, only {found}", hint=_FORM)


def _dataset(
    path: Path, columns: Mapping[str, list[str]], info: DatasetInfo, *, for_evaluation: bool
) -> Dataset:
    paths, labels = columns[_PATH], columns[_LABEL]
    splits = columns.get(_SPLIT, [""] * len(paths))
    faults = _faults(path, paths, labels, splits)
    if faults:
        lines = "".join(f"\n  - {fault}" for fault in faults[:_MOST_LISTED])
        raise DataError(f"the table {path} cannot be used:{lines}", hint=_FORM)
    class_names, numbers = number_labels(
        {"all": [clean_name(label) for label in labels]}, class_names=None, source=str(path)
    )
    found: dict[Split | None, ImageSet] = {}
    for word in dict.fromkeys(splits):
        rows = [i for i, said in enumerate(splits) if said == word]
        split = SPLIT_NAMES.get(word.lower())
        found[split] = ImageSet.from_files(
            path.parent,
            [paths[i] for i in rows],
            numbers["all"][rows],
            ids=[unicodedata.normalize("NFC", paths[i]) for i in rows],
            apply_exif=info.apply_exif,
        )
    settled, notes = settle_splits(found, class_names, for_evaluation=for_evaluation)
    counts = {split: len(images) for split, images in settled.items()}
    return Dataset(
        info=replace(info, num_classes=len(class_names), counts=counts),
        class_names=class_names,
        splits=settled,
        root=path.parent,
        layout=f"a table of {len(paths):,} paths",
        notes=[*case_notes(class_names), *notes],
    )


def _faults(
    path: Path, paths: Sequence[str], labels: Sequence[str], splits: Sequence[str]
) -> list[str]:
    if not paths:
        return ["it has no rows"]
    faults = [
        f"row {row + 2} has no {name}"
        for name, values in ((_PATH, paths), (_LABEL, labels))
        for row, value in enumerate(values)
        if not value
    ]
    words = dict.fromkeys(splits)
    faults += [
        f"split {word!r} is none of {', '.join(sorted(set(SPLIT_NAMES)))}"
        for word in words
        if word and word.lower() not in SPLIT_NAMES
    ]
    meant = [SPLIT_NAMES.get(word.lower()) for word in words]
    if len(set(meant)) < len(meant):
        faults.append(f"splits {', '.join(map(repr, words))} mean the same under two names")
    if "" in words and len(words) > 1:
        faults.append(f"{splits.count(''):,} rows name no split, where others do")
    if len(set(paths)) < len(paths):
        faults.append(f"{len(paths) - len(set(paths)):,} paths are listed twice")
    absent = missing_files(path.parent, [name for name in paths if name])
    return faults + missing_fault(absent, len(paths))


ADAPTERS: tuple[DatasetAdapter, ...] = ()
OPENERS: tuple[DatasetOpener, ...] = (TableOpener(),)
