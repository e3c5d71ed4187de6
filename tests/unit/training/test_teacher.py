"""A teacher that would teach its mistakes is refused before anything is trained."""

import numpy as np
import pytest

from deit_transfer.analysis.probe import LogisticProbe
from deit_transfer.data.dataset import ImageSet
from deit_transfer.errors import CheckpointError
from deit_transfer.training.head_start import HeadStart
from deit_transfer.training.teacher import _check_above_student

CHECKED = ImageSet.from_arrays(np.zeros((200, 4, 4, 3), np.uint8), np.arange(200) % 4)


def start(top1: float, *, held_out: int = 200) -> HeadStart:
    fit = LogisticProbe(
        weight=np.zeros((4, 2), np.float32),
        bias=np.zeros(4, np.float32),
        c=1.0,
        fold_top1=top1,
        fold_loss=0.5,
        num_held_out=held_out,
        tried={1.0: top1},
        at_edge=False,
        converged=True,
    )
    return HeadStart(fits=[fit], num_images=held_out, seconds_per_image=0.01)


def test_a_teacher_below_the_students_frozen_features_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"runs/t is worse than its student.*60\.0%") as error:
        _check_above_student("runs/t", 60.0, CHECKED, "val", start(80.0))
    assert "head_start=random" in error.value.hint


@pytest.mark.parametrize(
    ("teacher", "student", "held_out"),
    [(90.0, 80.0, 200), (75.0, 80.0, 200), (60.0, 80.0, 10), (60.0, float("nan"), 0)],
)
def test_a_teacher_that_may_be_as_good_is_taken(
    teacher: float, student: float, held_out: int
) -> None:
    """By the intervals: few images, or none that were held out, cannot say it is worse."""
    _check_above_student("runs/t", teacher, CHECKED, "val", start(student, held_out=held_out))
