"""Class labels as datasets store them: cleaned, checked and numbered alike for every adapter.

Labels come as text, whole numbers, or floats that stand for whole numbers. Text is stripped and
composed (Unicode NFC), so that two spellings of one word are one class. None, NaN and blank text
are missing. Everything else (lists, bytes, 0.5) is a fault with its place.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deit_transfer.errors import DataError

Key = TypeVar("Key")
Label = str | int | None

MOST_LISTED = 5
LARGEST_LABEL = 2**31 - 1


def clean_name(text: str) -> str:
    """Return a class name without blanks around it or a byte-order mark, in composed Unicode."""
    return unicodedata.normalize("NFC", text.replace("\N{ZERO WIDTH NO-BREAK SPACE}", "")).strip()


def clean_labels(values: Iterable[Any], *, source: str) -> list[Label]:
    """Return labels as text or whole numbers, None where one is missing.

    Args:
        values: As stored, one per image.
        source: Where they stand, for messages, as in "column label of train.parquet".

    Raises:
        DataError: A value is no label: a list, bytes, a fraction, a number below 0 or too large.
    """
    cleaned: list[Label] = []
    faults: list[str] = []
    for row, value in enumerate(values):
        label, fault = _clean(value)
        cleaned.append(label)
        if fault and len(faults) <= MOST_LISTED:
            faults.append(f"row {row}: {fault}")
    if faults:
        lines = "".join(f"\n  - {fault}" for fault in faults[:MOST_LISTED])
        more = "\n  - and more" * (len(faults) > MOST_LISTED)
        raise DataError(
            f"{source} holds values that are no labels:{lines}{more}",
            hint="A label is a class name, or a whole number from 0; leave it empty if unknown",
        )
    return cleaned


def number_labels(
    stored: Mapping[Key, Sequence[Label]], *, class_names: Sequence[str] | None, source: str
) -> tuple[tuple[str, ...], dict[Key, NDArray[np.int64]]]:
    """Return the class names in label order, and each split's labels from 0 (-1: missing).

    Args:
        stored: Clean labels by split.
        class_names: What whole numbers stand for; None makes a class of each value that occurs,
            numbers in numeric order and text in alphabetical order.
        source: Where the labels stand, for messages.

    Raises:
        DataError: A number has no name, a text is no class name, or names repeat.
    """
    present = {label for labels in stored.values() for label in labels if label is not None}
    if class_names is not None and not any(isinstance(label, str) for label in present):
        names = clean_names(class_names, source=source)
        too_high = sorted(label for label in present if int(label) >= len(names))
        if too_high:
            raise DataError(
                f"{source} holds label {too_high[-1]}, but {len(names)} classes are named",
                hint="The files contradict themselves. Download them again, or take another copy",
            )
        place: dict[Label, int] = {label: int(label) for label in present}
    else:
        texts = {label: str(label) for label in present}
        names = ordered_names(texts.values())
        numbers = {name: number for number, name in enumerate(names)}
        place = {label: numbers[text] for label, text in texts.items()}
    place[None] = -1
    return names, {
        key: np.fromiter((place[label] for label in labels), np.int64, count=len(labels))
        for key, labels in stored.items()
    }


def clean_names(names: Iterable[str], *, source: str) -> tuple[str, ...]:
    """Return class names in label order, cleaned.

    Raises:
        DataError: A name is empty, or stands there twice.
    """
    cleaned = tuple(clean_name(str(name)) for name in names)
    repeated = sorted({name for name in cleaned if cleaned.count(name) > 1})[:MOST_LISTED]
    if repeated or "" in cleaned:
        which = f"names {', '.join(map(repr, repeated))} twice" if repeated else "has an empty name"
        raise DataError(f"{source} {which}", hint="Each class has one name of its own")
    return cleaned


def read_names_file(path: Path) -> tuple[str, ...]:
    """Read class names, one a line in label order; blank lines at the end do not count.

    Raises:
        DataError: It is not UTF-8, or a name is empty or repeated.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}", hint="Save it as UTF-8") from error
    while lines and not lines[-1].strip():
        lines.pop()
    return clean_names(lines, source=str(path))


def ordered_names(found: Iterable[str]) -> tuple[str, ...]:
    """Return class names in label order: numbers by value (10 after 2), anything else as text."""
    names = set(found)
    if all(name.isascii() and name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def case_notes(class_names: Iterable[str]) -> list[str]:
    """Return a note where class names differ only in upper and lower case."""
    seen: dict[str, list[str]] = {}
    for name in class_names:
        seen.setdefault(name.casefold(), []).append(name)
    alike = [" and ".join(names) for names in seen.values() if len(names) > 1]
    if not alike:
        return []
    return [f"classes whose names differ only in upper and lower case: {'; '.join(alike[:5])}"]


def _clean(value: Any) -> tuple[Label, str]:
    """Return a label (None: missing), and what is wrong with the value."""
    if value is None:
        return None, ""
    if isinstance(value, str):
        return clean_name(value) or None, ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)), ""
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return None, ""
        if not float(value).is_integer():
            return None, f"{value!r} is no whole number"
        value = int(value)
    if isinstance(value, int | np.integer):
        if not -1 <= value <= LARGEST_LABEL:
            return None, f"{value} is outside 0 to {LARGEST_LABEL}"
        return (None if value == -1 else int(value)), ""  # the hub writes -1 for unknown
    return None, f"{str(value)[:40]!r} is a {type(value).__name__}, no text or number"
