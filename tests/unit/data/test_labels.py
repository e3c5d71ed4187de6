"""Labels as every adapter cleans and numbers them."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deit_transfer.data.labels import (
    case_notes,
    clean_labels,
    number_labels,
    ordered_names,
    read_names_file,
)
from deit_transfer.errors import DataError


def numbered(values: list[Any], names: tuple[str, ...] | None = None) -> tuple[Any, list[int]]:
    labels = clean_labels(values, source="column label")
    found, numbers = number_labels({"train": labels}, class_names=names, source="column label")
    return found, numbers["train"].tolist()


def test_blanks_and_the_two_spellings_of_a_word_are_one_class() -> None:
    cafe = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    assert numbered([*cafe, "cat ", " cat"]) == (("caf\u00e9", "cat"), [0, 0, 1, 1])


def test_what_is_missing_has_no_class() -> None:
    assert numbered([None, "a", "", float("nan"), "b"]) == (("a", "b"), [-1, 0, -1, -1, 1])


def test_sparse_numbers_make_a_class_for_each_that_occurs() -> None:
    assert numbered([51234, 17, 4200, 17]) == (("17", "4200", "51234"), [2, 0, 1, 0])
    assert numbered([2.0, np.int64(0), np.float32(2)]) == (("0", "2"), [1, 0, 1])


def test_numbers_stand_for_the_names_there_are() -> None:
    assert numbered([2, 0, -1], ("cat", "dog", "cow")) == (("cat", "dog", "cow"), [2, 0, -1])
    with pytest.raises(DataError, match="label 3, but 3 classes are named"):
        numbered([3], ("cat", "dog", "cow"))


@pytest.mark.parametrize("value", [0.5, [1], b"cat", -2, 2**62, {"label": 1}])
def test_what_is_no_label_is_refused_with_its_row(value: object) -> None:
    with pytest.raises(DataError, match="row 1: "):
        clean_labels(["cat", value], source="column label")


def test_a_file_of_names_may_have_a_mark_and_blank_lines_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "classnames.txt"
    file.write_bytes(b"\xef\xbb\xbfcat \ndog\n\n")
    assert read_names_file(file) == ("cat", "dog")
    file.write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match="empty name"):
        read_names_file(file)
    file.write_text("cat\ncat \n")
    with pytest.raises(DataError, match="'cat' twice"):
        read_names_file(file)


def test_numbers_are_ordered_by_value_and_case_is_noted() -> None:
    assert ordered_names(["10", "2"]) == ("2", "10")
    assert case_notes(["Cat", "cat", "dog"])[0].endswith("Cat and cat")
    assert case_notes(["cat", "dog"]) == []
