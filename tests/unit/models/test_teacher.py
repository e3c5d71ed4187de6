"""The teacher sees the student's images through its own normalization and resolution, frozen."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.teacher import Teacher

STUDENT_MEAN, STUDENT_STD = (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)


def build(name: str = "deit_micro", *, resolution: int = 32) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(name=name, num_classes=5, resolution=resolution, drop_path=0.5)


def pixels(resolution: int = 32) -> torch.Tensor:
    return torch.rand(3, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


def normalize(
    images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_the_student_s_normalization_is_replaced_by_the_teacher_s() -> None:
    network = build()
    teacher = Teacher(network, student_mean=STUDENT_MEAN, student_std=STUDENT_STD)
    own = normalize(pixels(), network.mean, network.std)

    as_student = normalize(pixels(), STUDENT_MEAN, STUDENT_STD)
    torch.testing.assert_close(teacher.convert(as_student), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher(as_student), network(own).class_logits, rtol=1e-4, atol=1e-5)


def test_the_same_normalization_leaves_the_images_untouched() -> None:
    network = build()
    teacher = Teacher(network, student_mean=network.mean, student_std=network.std)
    images = pixels()
    assert teacher.convert(images) is images


def test_images_are_resized_to_the_teacher_s_resolution() -> None:
    network = build(resolution=48)
    teacher = Teacher(network, student_mean=network.mean, student_std=network.std)
    expected = F.interpolate(pixels(), size=(48, 48), mode="bicubic", antialias=True)
    torch.testing.assert_close(teacher.convert(pixels()), expected)
    assert teacher(pixels()).shape == (3, 5)


def test_a_distilled_teacher_answers_with_both_heads_together() -> None:
    network = build("deit_micro_distilled")
    teacher = Teacher(network, student_mean=network.mean, student_std=network.std)
    heads = network.eval()(pixels())

    def softmax(logits: torch.Tensor) -> np.ndarray:
        exponentials = np.exp(logits.detach().numpy().astype(np.float64))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    expected = (softmax(heads.class_logits) + softmax(heads.distill_logits)) / 2
    answer = teacher(pixels())
    np.testing.assert_allclose(softmax(answer), expected, rtol=1e-5)
    np.testing.assert_allclose(np.exp(answer.numpy()).sum(axis=1), 1, rtol=1e-5)


def test_the_teacher_is_frozen_and_stays_as_it_is() -> None:
    network = build("deit_micro_distilled").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    teacher = Teacher(network, student_mean=STUDENT_MEAN, student_std=STUDENT_STD)

    images = pixels().requires_grad_()
    answer = teacher(images)

    assert not answer.requires_grad
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    torch.testing.assert_close(answer, teacher(images), rtol=0, atol=0)  # no stochastic depth


def test_a_module_that_holds_a_teacher_does_not_own_it() -> None:
    student = build()
    network = build()
    student.teacher = Teacher(network, student_mean=STUDENT_MEAN, student_std=STUDENT_STD)
    student.train()
    assert not network.training
    assert not any(key.startswith("teacher") for key in student.state_dict())


def test_the_answer_is_float32_under_autocast() -> None:
    network = build()
    teacher = Teacher(network, student_mean=network.mean, student_std=network.std)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = teacher(pixels())
    assert answer.dtype == torch.float32
    assert answer.numpy() == pytest.approx(teacher(pixels()).numpy(), abs=0.05)
