"""Decisions are compared image by image; ties are told apart from differences."""

import numpy as np
import pytest

from deit_transfer.errors import CheckpointError
from deit_transfer.export.gate import Agreement, check_agreement, check_loss, compare_answers

OURS = np.array([[0.7, 0.3], [0.50004, 0.49996], [0.2, 0.8]], np.float32)


def test_equal_answers_agree() -> None:
    found = compare_answers(OURS, OURS, tie=1e-4)
    assert found == Agreement(num_images=3, ties=(), differing=(), most_apart=0.0)
    check_agreement(found, ids=["a", "b", "c"], what="timm", resizes=False)


def test_a_tie_is_listed_and_passes() -> None:
    theirs = OURS.copy()
    theirs[1] = theirs[1, ::-1]
    found = compare_answers(OURS, theirs, tie=1e-4)
    assert (found.ties, found.differing, found.num_equal) == ((1,), (), 2)
    check_agreement(found, ids=["a", "b", "c"], what="timm", resizes=False)


def test_another_decision_is_refused_with_the_image() -> None:
    theirs = OURS.copy()
    theirs[2] = theirs[2, ::-1]
    found = compare_answers(OURS, theirs, tie=1e-4)
    with pytest.raises(CheckpointError, match=r"decides 1 of 3 images differently.*: c$"):
        check_agreement(found, ids=["a", "b", "c"], what="onnx", resizes=False)


def test_equal_decisions_with_other_probabilities_are_refused() -> None:
    theirs = np.array([[0.6, 0.4], [0.50004, 0.49996], [0.2, 0.8]], np.float32)
    found = compare_answers(OURS, theirs, tie=1e-4)
    assert found.num_equal == 3
    for resizes in (False, True):
        with pytest.raises(CheckpointError, match=r"differ .* by up to 0\.1 "):
            check_agreement(found, ids=["a", "b", "c"], what="onnx", resizes=resizes)


def test_answers_that_are_no_numbers_differ() -> None:
    theirs = OURS.copy()
    theirs[0] = np.nan
    assert compare_answers(OURS, theirs, tie=1.0).differing == (0,)
    with pytest.raises(CheckpointError):
        check_loss(OURS, theirs, np.array([0, 0, 1]), tolerance=100)


def test_a_loss_beyond_the_tolerance_is_refused_with_its_interval() -> None:
    ours = np.tile(np.array([[0.9, 0.1]], np.float32), (100, 1))
    theirs, labels = ours.copy(), np.zeros(100, np.int64)
    theirs[:2] = theirs[:2, ::-1]
    with pytest.raises(CheckpointError, match=r"8 bits lose 2\.00 points .* interval"):
        check_loss(ours, theirs, labels, tolerance=1.9)
    change = check_loss(ours, theirs, labels, tolerance=2.0)
    assert change.mean == pytest.approx(-2.0)
    assert change.low < -2 < change.high
