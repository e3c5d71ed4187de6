"""Write and open a folder for transformers' own classes, without timm and without remote code.

One class token is a `ViTForImageClassification`, as facebook/deit-tiny-patch16-224 on the hub is;
two are a `DeiTForImageClassificationWithTeacher`.
"""

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.export.subject import ExportSubject, OpenedExport, plain_tensors
from deit_transfer.files import write_bytes_atomic, write_text_atomic
from deit_transfer.models.classifier import Classifier
from deit_transfer.models.variants import find_variant

BICUBIC = 3  # Pillow's number
LAYER_NORM_EPS = 1e-6  # timm/models/deit.py

_TOP = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_IN_BLOCK = {
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


def write_hf(subject: ExportSubject, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json into a new folder."""
    folder.mkdir()
    tensors = to_transformers_names(plain_tensors(subject.classifier))
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    write_bytes_atomic(folder / "model.safetensors", weights)
    for name, content in (
        ("config.json", transformers_config(subject.classifier, subject.class_names)),
        ("preprocessor_config.json", preprocessor_config(subject)),
    ):
        write_text_atomic(folder / name, json.dumps(content, indent=2) + "\n")


def transformers_config(classifier: Classifier, class_names: Sequence[str]) -> dict[str, Any]:
    """Return what transformers builds; raises ValueError for a network that is no DeiT."""
    variant = find_variant(classifier.name)
    if variant.embed_dim is None:
        raise ValueError(f"{classifier.name} is no DeiT")
    kind = "DeiTForImageClassificationWithTeacher" if classifier.distilled else None
    return {
        "architectures": [kind or "ViTForImageClassification"],
        "model_type": "deit" if classifier.distilled else "vit",
        "hidden_size": variant.embed_dim,
        "num_hidden_layers": variant.depth,
        "num_attention_heads": variant.num_heads,
        "intermediate_size": 4 * variant.embed_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "image_size": classifier.resolution,
        "patch_size": variant.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "id2label": {str(number): name for number, name in enumerate(class_names)},
        "label2id": {name: number for number, name in enumerate(class_names)},
    }


def preprocessor_config(subject: ExportSubject) -> dict[str, Any]:
    """Return how transformers shows an image: the shorter side resized, the center cropped."""
    side = subject.classifier.resolution
    return {
        "image_processor_type": "DeiTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": math.floor(side / subject.crop_pct)},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(subject.classifier.mean),
        "image_std": list(subject.classifier.std),
    }


def to_transformers_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's tensors of a DeiT; queries, keys and values become three of their own."""
    distilled = "dist_token" in state_dict
    prefix = "deit" if distilled else "vit"
    heads = {"head": "cls_classifier" if distilled else "classifier"}
    heads["head_dist"] = "distillation_classifier"
    renamed: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        module, _, kind = key.rpartition(".") if "." in key else (key, "", "")
        ending = f".{kind}" if kind else ""
        if module in heads:
            renamed[f"{heads[module]}{ending}"] = value
        elif module in _TOP:
            renamed[f"{prefix}.{_TOP[module]}{ending}"] = value
        else:
            _, number, part = module.split(".", 2)
            layer = f"{prefix}.encoder.layer.{number}"
            if part == "attn.qkv":
                for name, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    place = f"{layer}.attention.attention.{name}{ending}"
                    renamed[place] = third.clone()
            else:
                renamed[f"{layer}.{_IN_BLOCK[part]}{ending}"] = value
    return renamed


class TransformersExport(OpenedExport):
    """A folder opened by transformers' AutoModelForImageClassification and its processor."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():  # of its dependencies, about themselves
            warnings.simplefilter("ignore")
            import transformers

            transformers.utils.logging.set_verbosity_error()
            transformers.utils.logging.disable_progress_bar()
            self.runtime = f"transformers {transformers.__version__}"
            self.network = transformers.AutoModelForImageClassification.from_pretrained(
                str(folder), local_files_only=True
            ).eval()
            self.view: Any = transformers.AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True
            )

    @torch.inference_mode()
    def probabilities(self, photos: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the softmax of its logits, (B, K)."""
        shown = [torch.tensor(photo).permute(2, 0, 1) for photo in photos]
        values = self.view(shown, return_tensors="pt")["pixel_values"]
        return self.network(pixel_values=values).logits.softmax(dim=-1).numpy()


class TransformersView:
    """Shows photos as transformers does, which rounds the crop's margins down and not half to even.

    Where a margin is 1.5, 3.5, ... pixels, it sees the image one pixel aside.
    """

    def __init__(self, *, resolution: int, crop_pct: float) -> None:
        self.resolution = resolution
        self.shorter = math.floor(resolution / crop_pct)

    def __call__(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        short = min(height, width)
        resized = [int(self.shorter * side / short) for side in (width, height)]
        left, top = ((side - self.resolution) // 2 for side in resized)
        view = Image.fromarray(image).resize(resized, Image.Resampling.BICUBIC)
        return np.asarray(view)[top:, left:][: self.resolution, : self.resolution]
