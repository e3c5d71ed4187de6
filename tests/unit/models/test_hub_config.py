"""A run's folder opens in timm and in transformers, with the same logits and the same view."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from deit_transfer.batch import HeadLogits
from deit_transfer.data.pipeline.transforms import eval_transform
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pretrained import write_model_files

NAMES = ("ant", "bee", "cat")
CASES = [
    ("deit_tiny_patch16_224", 112, 0.875),
    ("deit_micro", 40, 0.9),
    ("deit_micro_distilled", 32, 1.0),
    ("resnet10t", 64, 0.9),
]


def written(folder: Path, name: str, side: int, crop_pct: float) -> Classifier:
    torch.manual_seed(0)
    classifier = build_classifier(name=name, num_classes=3, resolution=side).eval()
    classifier.mean, classifier.std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    write_model_files(folder, classifier, class_names=NAMES, crop_pct=crop_pct)
    return classifier


def mean_logits(heads: HeadLogits) -> Tensor:
    """Return what timm answers in evaluation: the mean of the heads' logits."""
    if heads.distill_logits is None:
        return heads.class_logits
    return (heads.class_logits + heads.distill_logits) / 2


@pytest.mark.parametrize(("name", "side", "crop_pct"), CASES)
def test_timm_opens_the_folder(tmp_path: Path, name: str, side: int, crop_pct: float) -> None:
    classifier = written(tmp_path, name, side, crop_pct)
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.equal(network(images), mean_logits(classifier(images)))
    assert network.pretrained_cfg["label_names"] == list(NAMES)


@pytest.mark.parametrize(("name", "side", "crop_pct"), CASES)
def test_timm_sees_images_as_the_run_does(
    tmp_path: Path, name: str, side: int, crop_pct: float
) -> None:
    classifier = written(tmp_path, name, side, crop_pct)
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    pixels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    ours = torch.tensor(eval_transform(resolution=side, crop_pct=crop_pct)(pixels)) / 255
    ours = (ours - torch.tensor(classifier.mean)) / torch.tensor(classifier.std)
    assert torch.allclose(theirs(Image.fromarray(pixels)), ours.permute(2, 0, 1), atol=1e-6)


TRANSFORMERS = """
import json, sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
folder, side = sys.argv[1], int(sys.argv[2])
model = AutoModelForImageClassification.from_pretrained(folder).eval()
view = AutoImageProcessor.from_pretrained(folder)
torch.manual_seed(1)
images = torch.randn(2, 3, side, side)
with torch.no_grad():
    logits = model(images).logits
photo = Image.new("RGB", (50, 40), (200, 10, 30))
answer = pipeline("image-classification", model=model, image_processor=view)(photo)
print(json.dumps({"logits": logits.tolist(), "labels": model.config.id2label,
    "crop_pct": view.data_config["crop_pct"], "answer": [one["label"] for one in answer]}))
"""


@pytest.mark.parametrize(("name", "side", "crop_pct"), CASES[1:3])
def test_transformers_opens_it(tmp_path: Path, name: str, side: int, crop_pct: float) -> None:
    pytest.importorskip("transformers")
    classifier = written(tmp_path, name, side, crop_pct)
    # in a process of its own: transformers warns, and registers what other tests must not see
    command = [sys.executable, "-c", TRANSFORMERS, str(tmp_path), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    torch.manual_seed(1)
    with torch.no_grad():
        logits = mean_logits(classifier(torch.randn(2, 3, side, side)))
    assert torch.equal(torch.tensor(found["logits"]), logits)
    assert tuple(found["labels"].values()) == NAMES
    assert found["crop_pct"] == crop_pct
    assert sorted(found["answer"]) == list(NAMES)
