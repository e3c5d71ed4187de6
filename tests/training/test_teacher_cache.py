"""The teacher cache returns what the teacher returned, and refuses other settings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deit_transfer.batch import Batch
from deit_transfer.errors import CheckpointError
from deit_transfer.training.teacher_cache import TeacherCache

NUM_IMAGES, REPEATS, NUM_CLASSES = 10, 2, 7


class CountingTeacher:
    """Answer with fixed random logits by the first pixel, and count the questions."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = 4 * torch.randn(256, NUM_CLASSES, generator=generator)
        self.asked = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        return self.table[images[:, 0, 0, 0].long()]


def batch_of(indices: list[int], *, repetition: int = 0, epoch: int = 0) -> tuple[Tensor, Batch]:
    images = torch.zeros(len(indices), 3, 2, 2)
    images[:, 0, 0, 0] = torch.tensor(indices) * 3 + repetition + 50 * epoch
    count = torch.tensor(indices)
    names = Batch(images.byte(), count, count, torch.full_like(count, repetition), epoch)
    return images, names


def cache_in(folder: Path, teacher: CountingTeacher, *, top_k: int | None) -> TeacherCache:
    return TeacherCache(
        folder,
        description={"teacher": "a", "augment_seed": 1},
        teacher=teacher,
        num_images=NUM_IMAGES,
        repeats=REPEATS,
        num_classes=NUM_CLASSES,
        top_k=top_k,
    )


QUESTIONS = [([0, 3, 9], 0, 0), ([1, 2], 0, 0), ([0, 3, 9], 1, 0), ([0, 3, 9], 0, 1)]


@pytest.mark.parametrize("top_k", [None, 3, 7, 50])
def test_the_second_run_asks_nothing_and_hears_the_same(tmp_path: Path, top_k: int | None) -> None:
    def ask_all(cache: TeacherCache) -> list[Tensor]:
        return [cache(*batch_of(i, repetition=r, epoch=e)) for i, r, e in QUESTIONS]

    first_teacher, second_teacher = CountingTeacher(), CountingTeacher()
    first = ask_all(cache_in(tmp_path, first_teacher, top_k=top_k))
    second = ask_all(cache_in(tmp_path, second_teacher, top_k=top_k))
    assert first_teacher.asked == 11
    assert second_teacher.asked == 0
    for (indices, repetition, epoch), ours, again in zip(QUESTIONS, first, second, strict=True):
        assert torch.equal(ours, again)
        images, _ = batch_of(indices, repetition=repetition, epoch=epoch)
        truth = CountingTeacher()(images)
        assert torch.equal(ours.argmax(-1), truth.argmax(-1))
        assert ours.shape == truth.shape


def test_hard_answers_are_certain(tmp_path: Path) -> None:
    answer = cache_in(tmp_path, CountingTeacher(), top_k=None)(*batch_of([4, 5]))
    assert torch.allclose(answer.softmax(-1).amax(-1), torch.ones(2))


@pytest.mark.parametrize(("top_k", "tolerance"), [(7, 2e-3), (3, 0.08)])
def test_soft_answers_keep_the_probabilities(tmp_path: Path, top_k: int, tolerance: float) -> None:
    images, names = batch_of([0, 1, 2, 3])
    answer = cache_in(tmp_path, CountingTeacher(), top_k=top_k)(images, names).softmax(-1)
    truth = CountingTeacher()(images).softmax(-1)
    kept = truth.topk(top_k).indices
    # what is kept is kept to half precision; what is not shares the rest evenly
    np.testing.assert_allclose(answer.gather(1, kept), truth.gather(1, kept), atol=2e-3)
    np.testing.assert_allclose(answer, truth, atol=tolerance)
    np.testing.assert_allclose(answer.sum(-1), np.ones(4), atol=1e-5)


def test_a_cache_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    cache_in(tmp_path, CountingTeacher(), top_k=None)
    with pytest.raises(CheckpointError, match="different settings: augment_seed") as caught:
        TeacherCache(
            tmp_path,
            description={"teacher": "a", "augment_seed": 2},
            teacher=CountingTeacher(),
            num_images=NUM_IMAGES,
            repeats=REPEATS,
            num_classes=NUM_CLASSES,
            top_k=None,
        )
    assert "augment.seed" in caught.value.hint
