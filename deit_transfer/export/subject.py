"""The run that is exported, and what every format is written from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline.decode_cache import open_reader
from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.engine.losses import late_fusion
from deit_transfer.models.classifier import Classifier
from deit_transfer.models.hub_config import hub_config

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ExportSubject:
    """A network in evaluation mode on the CPU in float32, its K class names and its view.

    `images` are those that an export is asked about.
    """

    name: str
    classifier: Classifier
    class_names: tuple[str, ...]
    crop_pct: float
    images: ImageSet

    def config(self) -> dict[str, Any]:
        """Return the `config.json` of timm and the hub."""
        return hub_config(self.classifier, class_names=self.class_names, crop_pct=self.crop_pct)


class ScoredNetwork(nn.Module):
    """Maps normalized images (B, 3, R, R) to the probabilities (B, K) that the program scores."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the softmax, of a distilled network the mean of its heads' (late fusion)."""
        return late_fusion(self.classifier(images))


class OpenedExport:
    """An exported network opened by its own runtime, with its own view of an image."""

    runtime = ""

    def probabilities(self, photos: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the probabilities (B, K) of decoded photos (H, W, 3) uint8."""
        raise NotImplementedError


class TimmView:
    """Shows photos to a network as a `pretrained_cfg` says, by timm's own transform."""

    def __init__(self, pretrained_cfg: dict[str, Any]) -> None:
        config = timm.data.resolve_data_config({}, pretrained_cfg=pretrained_cfg)
        self.transform = timm.data.create_transform(**config)

    def __call__(self, photos: Sequence[Pixels]) -> Tensor:
        """Return (B, 3, R, R) float32, normalized."""
        return torch.stack([self.transform(Image.fromarray(photo)) for photo in photos])


def photos_of(images: ImageSet) -> Iterator[list[Pixels]]:
    """Yield the decoded photos of a split, some at a time, in order."""
    reader = open_reader(images, decode_cache_mb=0)
    for start in range(0, len(images), BATCH):
        yield [reader.pixels(index) for index in range(start, min(start + BATCH, len(images)))]


def plain_tensors(classifier: Classifier) -> dict[str, Tensor]:
    """Return the backbone's tensors by timm's names, a copy each."""
    state = classifier.backbone.state_dict()
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}


def write_parents(path: Path) -> list[Path]:
    """Make the folders above a path, and return those that were not there, innermost first."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return missing
