"""Views and resolutions against torchvision's crops and sums by hand."""

import pytest
import torch
from torchvision.transforms.functional import five_crop

from deit_transfer.errors import UsageError
from deit_transfer.models.classifier import build_classifier
from deit_transfer.models.test_time_augmentation import (
    AveragedViews,
    at_resolution,
    five_crops,
    mean_log_probabilities,
)


def test_five_crops_are_torchvisions() -> None:
    images = torch.rand(2, 3, 19, 19)
    *corners, center = five_crop(images, 16)
    ours = five_crops(images, side=16)
    assert torch.equal(ours[0], center)
    assert all(torch.equal(*pair) for pair in zip(ours[1:], corners, strict=True))


def test_the_mean_of_probabilities_survives_underflow() -> None:
    logits = [torch.tensor([[0.0, -400.0]]), torch.tensor([[0.0, 1.0]])]
    found = mean_log_probabilities(logits)
    expected = (logits[0].softmax(-1) + logits[1].softmax(-1)) / 2
    assert torch.allclose(found.exp(), expected)
    assert mean_log_probabilities([torch.tensor([[0.0, -400.0]])])[0, 1] == -400


@pytest.mark.parametrize(("views", "num"), [("flip", 2), ("five", 5), ("ten", 10)])
@torch.no_grad()
def test_each_head_is_averaged_by_itself(views, num) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(name="deit_micro_distilled", num_classes=3, resolution=16).eval()
    images = torch.randn(2, 3, 16 if views == "flip" else 18, 16 if views == "flip" else 18)
    pieces = [images] if views == "flip" else five_crops(images, side=16)
    pieces = pieces + [torch.flip(one, dims=[3]) for one in pieces] * (views != "five")
    assert len(pieces) == num
    found = AveragedViews(classifier, views=views)(images)
    for ours, head in zip(found, (0, 1), strict=True):
        rows = torch.stack([classifier(one)[head].softmax(-1) for one in pieces])
        assert torch.allclose(ours.softmax(-1), rows.mean(dim=0), atol=1e-6)


@torch.no_grad()
def test_only_the_patch_positions_change_with_the_resolution() -> None:
    classifier = build_classifier(name="deit_micro_distilled", num_classes=3, resolution=16).eval()
    assert at_resolution(classifier, 16) is classifier
    classifier.mean = (0.1, 0.2, 0.3)
    larger = at_resolution(classifier, 24)
    assert larger.resolution == 24
    assert larger.mean == classifier.mean
    old, new = classifier.backbone.state_dict(), larger.backbone.state_dict()
    for name in old.keys() - {"pos_embed"}:
        assert torch.equal(old[name], new[name]), name
    assert torch.equal(old["pos_embed"][:, :2], new["pos_embed"][:, :2])
    assert larger(torch.randn(1, 3, 24, 24)).class_logits.shape == (1, 3)
    with pytest.raises(UsageError, match="multiple of the patch size 4"):
        at_resolution(classifier, 18)


@torch.no_grad()
def test_a_network_without_positions_takes_any_resolution_as_it_is() -> None:
    classifier = build_classifier(name="resnet10t", num_classes=3, resolution=32).eval()
    images = torch.randn(1, 3, 48, 48)
    found = at_resolution(classifier, 48)(images)
    assert torch.allclose(found.class_logits, classifier(images).class_logits)
