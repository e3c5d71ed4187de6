"""Write and open a folder in timm's hub layout: config.json and model.safetensors."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
from numpy.typing import NDArray

from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.export.subject import ExportSubject, OpenedExport, TimmView, plain_tensors
from deit_transfer.files import write_bytes_atomic, write_text_atomic


def write_timm(subject: ExportSubject, folder: Path) -> None:
    """Write the two files of timm's layout into a new folder."""
    folder.mkdir()
    weights = safetensors.torch.save(plain_tensors(subject.classifier))
    write_bytes_atomic(folder / "model.safetensors", weights)
    write_text_atomic(folder / "config.json", json.dumps(subject.config(), indent=2) + "\n")


class TimmExport(OpenedExport):
    """A folder opened by `timm.create_model("local-dir:...")`."""

    def __init__(self, folder: Path) -> None:
        self.runtime = f"timm {timm.__version__}"
        self.network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self.view = TimmView(self.network.pretrained_cfg)

    @torch.inference_mode()
    def probabilities(self, photos: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the softmax of timm's logits, (B, K)."""
        return self.network(self.view(photos)).softmax(dim=-1).numpy()
