"""Compare the scores with scikit-learn's, and predictions with one pass over the whole split."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from deit_transfer.batch import Batch, HeadLogits
from deit_transfer.engine.inference import Predictions, head_scores, predict_batches, scores
from deit_transfer.engine.precision import resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_classes", [2, 4, 5, 6, 30])
def test_scores_equal_scikit_learn(num_classes: int) -> None:
    torch.manual_seed(num_classes)
    probabilities = torch.randn(203, num_classes).mul(2).softmax(dim=1)
    labels = torch.randint(0, num_classes, (203,))
    ours = scores(probabilities, labels)
    classes = np.arange(num_classes)
    y, p = labels.numpy(), probabilities.double().numpy()
    p = p / p.sum(axis=1, keepdims=True)
    decided = p.argmax(axis=1)
    assert ours.top1 == pytest.approx(100 * np.mean(decided == y))
    assert ours.mean_per_class == pytest.approx(100 * balanced_accuracy_score(y, decided))
    assert ours.loss == pytest.approx(log_loss(y, p, labels=classes), rel=1e-5)
    if num_classes > 5:
        top5 = top_k_accuracy_score(y, p, k=5, labels=classes)
        assert ours.top5 == pytest.approx(100 * top5)
    else:
        assert ours.top5 == 100.0
    assert (ours.n, ours.nonfinite) == (203, 0)


def test_classes_without_images_do_not_count() -> None:
    probabilities = torch.eye(4)[torch.tensor([0, 0, 1, 0])]
    ours = scores(probabilities, torch.tensor([0, 0, 1, 1]))
    assert ours.mean_per_class == 75.0
    assert ours.top1 == 75.0


def test_ties_do_not_favor_the_label() -> None:
    same = torch.full((3, 3), 1 / 3)
    assert scores(same, torch.tensor([0, 1, 2])).top1 == pytest.approx(100 / 3)


def test_answers_that_are_no_numbers_are_wrong() -> None:
    probabilities = torch.eye(8)
    labels = torch.arange(8)
    probabilities[2] = math.nan
    probabilities[3, 3] = math.inf
    ours = scores(probabilities, labels)
    assert ours.top1 == ours.top5 == 75.0
    assert ours.nonfinite == 2
    assert math.isfinite(ours.loss)


def test_a_sure_error_has_a_finite_loss() -> None:
    ours = scores(torch.eye(2), torch.tensor([1, 0]))
    assert math.isfinite(ours.loss)
    assert ours.loss > 80


class TwoHeads(nn.Module):
    def __init__(self, *, two: bool = True) -> None:
        super().__init__()
        self.class_head, self.distill_head = nn.Linear(12, 5), nn.Linear(12, 5)
        self.drop, self.two = nn.Dropout(0.5), two

    def forward(self, images: Tensor) -> HeadLogits:
        flat = self.drop(images.flatten(1))
        return HeadLogits(self.class_head(flat), self.distill_head(flat) if self.two else None)


def batches_of(images: Tensor, labels: Tensor, order: list[int], size: int) -> Iterator[Batch]:
    for at in range(0, len(order), size):
        indices = torch.tensor(order[at : at + size])
        yield Batch(images[indices], labels[indices], indices, torch.zeros_like(indices), 0)


def normalize(images: Tensor) -> Tensor:
    return images.float() / 255 - 0.5


@pytest.fixture
def split() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (11, 3, 2, 2), dtype=torch.uint8)
    return images, torch.randint(0, 5, (11,))


def run(model: nn.Module, batches: Iterator[Batch]) -> Predictions:
    precision = resolve_precision("fp32", CPU)
    return predict_batches(model, batches, device=CPU, precision=precision, normalize=normalize)


def test_predict_answers_in_order_without_dropout(split: tuple[Tensor, Tensor]) -> None:
    images, labels = split
    model = TwoHeads().train()
    order = [7, 3, 0, 1, 10, 2, 9, 4, 8, 5, 6]
    predictions = run(model, batches_of(images, labels, order, 4))
    assert model.training
    with torch.no_grad():
        expected = model.eval()(normalize(images))
    assert torch.equal(predictions.indices, torch.arange(11))
    assert torch.equal(predictions.labels, labels)
    torch.testing.assert_close(predictions.class_logits, expected.class_logits)
    torch.testing.assert_close(predictions.distill_logits, expected.distill_logits)
    assert not predictions.class_logits.requires_grad


def test_heads_are_scored_one_by_one_and_together(split: tuple[Tensor, Tensor]) -> None:
    images, labels = split
    model = TwoHeads()
    predictions = run(model, batches_of(images, labels, list(range(11)), 11))
    named = head_scores(predictions)
    assert list(named) == ["class", "distill", "joint"]
    p_class = predictions.class_logits.softmax(1)
    p_distill = predictions.distill_logits.softmax(1)
    for name, summed in (
        ("class", p_class),
        ("distill", p_distill),
        ("joint", p_class + p_distill),
    ):
        top1 = 100 * float((summed.argmax(1) == labels).float().mean())
        assert named[name].top1 == pytest.approx(top1), name
    plain = head_scores(run(TwoHeads(two=False), batches_of(images, labels, list(range(11)), 3)))
    assert list(plain) == ["class", "joint"]
    assert plain["class"] == plain["joint"]


def test_an_image_twice_and_no_image_are_refused(split: tuple[Tensor, Tensor]) -> None:
    images, labels = split
    with pytest.raises(ValueError, match=r"twice, at indices \[3\]"):
        run(TwoHeads(), batches_of(images, labels, [0, 3, 1, 3], 2))
    with pytest.raises(ValueError, match="no image"):
        run(TwoHeads(), iter(()))


def test_of_several_right_answers_the_likeliest_is_scored() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 5.0]])
    predictions = Predictions(torch.arange(3), torch.tensor([1, 2, 0]), logits, None)
    right = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=torch.bool)
    # by the single labels all three are wrong; by the sets the first and the last are right
    assert head_scores(predictions)["joint"].top1 == 0.0
    assert head_scores(predictions, right)["joint"].top1 == pytest.approx(200 / 3)
