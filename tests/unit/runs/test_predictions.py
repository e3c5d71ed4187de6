"""Stored predictions: written and read again, and joined by image, never by place or mere name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deit_transfer.data.dataset import ImageSet
from deit_transfer.errors import DataError
from deit_transfer.runs.predictions import (
    UNKNOWN_CONTENT,
    StoredPredictions,
    image_contents,
    join_predictions,
    read_predictions,
    write_predictions,
)


def answers(names: str, *, distilled: bool = False) -> StoredPredictions:
    """One image a letter; everything about it follows from the letter."""
    codes = np.array([ord(name) for name in names])
    logits = np.stack([codes % 3, codes % 5, codes % 7], axis=1).astype(np.float32)
    return StoredPredictions(
        ids=np.array(list(names)),
        labels=codes % 3,
        class_logits=logits,
        distill_logits=logits + 1 if distilled else None,
        contents=codes.astype(np.uint64),
    )


@pytest.mark.parametrize("distilled", [True, False])
def test_what_is_written_is_read(tmp_path: Path, distilled: bool) -> None:
    written = answers("abc", distilled=distilled)
    write_predictions(tmp_path / "p.npz", written)
    read = read_predictions(tmp_path / "p.npz")
    assert read.heads == written.heads
    for name in ("ids", "labels", "class_logits", "distill_logits", "contents"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


def test_a_damaged_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(b"PK not an archive")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "p.npz")


def test_images_are_joined_by_name_in_any_order() -> None:
    first, second = join_predictions([("a", answers("abcd")), ("b", answers("xdbc"))])
    assert first.ids.tolist() == second.ids.tolist() == ["b", "c", "d"]
    np.testing.assert_array_equal(first.class_logits, second.class_logits)


def test_other_images_of_the_same_names_are_refused() -> None:
    other = replace(answers("abc"), contents=answers("axc").contents)
    with pytest.raises(
        DataError, match="1 have the same names but not the same content, such as b"
    ):
        join_predictions([("a", answers("abc")), ("b", other)])


def test_what_is_not_known_of_content_is_no_difference() -> None:
    gone = np.where(np.arange(3) == 1, UNKNOWN_CONTENT, answers("abc").contents)
    for contents in (None, gone.astype(np.uint64)):
        other = replace(answers("abc"), contents=contents)
        assert len(join_predictions([("a", answers("abc")), ("b", other)])) == 2


def test_contents_follow_the_pixels_not_the_names() -> None:
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    labels = np.zeros(2, np.int64)
    one = image_contents(ImageSet.from_arrays(pixels, labels, ids=["a", "b"]))
    renamed = image_contents(ImageSet.from_arrays(pixels, labels, ids=["b", "a"]))
    other = image_contents(ImageSet.from_arrays(pixels[::-1].copy(), labels, ids=["a", "b"]))
    np.testing.assert_array_equal(one, renamed)
    np.testing.assert_array_equal(one, other[::-1])
    assert one[0] != one[1]
