"""Write and open a checkpoint in the layout of the paper's code (facebookresearch/deit)."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.errors import UsageError
from deit_transfer.export.subject import ExportSubject, OpenedExport, TimmView, plain_tensors
from deit_transfer.files import write_bytes_atomic


def write_deit(subject: ExportSubject, path: Path) -> None:
    """Write {"model": state dict, "args": what main.py is to be told}; opens with weights_only.

    Raises:
        UsageError: The network sees other colors than the paper's code shows.
    """
    classifier, config = subject.classifier, subject.config()
    colors = (*classifier.mean, *classifier.std)
    usual = (*IMAGENET_DEFAULT_MEAN, *IMAGENET_DEFAULT_STD)
    if not all(map(math.isclose, colors, usual)):
        raise UsageError(
            f"{subject.name} was trained with mean {classifier.mean} and deviation "
            f"{classifier.std}, and the paper's main.py shows every image with ImageNet's",
            hint="Use --to timm, whose config.json holds them",
        )
    args: dict[str, Any] = {
        "model": config["architecture"],
        "input_size": classifier.resolution,
        "nb_classes": classifier.num_classes,
        "eval_crop_ratio": subject.crop_pct,
        "model_args": {"num_classes": classifier.num_classes, **config["model_args"]},
        "class_names": list(subject.class_names),
    }
    content = io.BytesIO()
    torch.save({"model": plain_tensors(classifier), "args": args}, content)
    write_bytes_atomic(path, content.getvalue())


class DeitExport(OpenedExport):
    """A checkpoint opened as main.py does: timm's network, strict names, the paper's view."""

    def __init__(self, path: Path) -> None:
        self.runtime = f"timm {timm.__version__}, as in the paper's main.py"
        saved = torch.load(path, map_location="cpu", weights_only=True)
        args = saved["args"]
        self.network = timm.create_model(args["model"], **args["model_args"]).eval()
        self.network.load_state_dict(saved["model"])
        side = args["input_size"]
        # main.py, build_transform: bicubic, and the constants of timm
        self.view = TimmView(
            {
                "input_size": (3, side, side),
                "crop_pct": args["eval_crop_ratio"],
                "interpolation": "bicubic",
                "mean": IMAGENET_DEFAULT_MEAN,
                "std": IMAGENET_DEFAULT_STD,
            }
        )

    @torch.inference_mode()
    def probabilities(self, photos: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the softmax of the network's logits, (B, K)."""
        return self.network(self.view(photos)).softmax(dim=-1).numpy()
