"""Describe a network as timm and the hub do: the `config.json` beside `model.safetensors`."""

from collections.abc import Mapping, Sequence
from typing import Any

from deit_transfer.models.classifier import Classifier
from deit_transfer.models.variants import Variant, find_variant

# facts of the network that timm looks up beside the view
_NETWORK_KEYS = ("classifier", "first_conv", "pool_size", "fixed_input_size", "license")


def hub_config(
    classifier: Classifier, *, class_names: Sequence[str], crop_pct: float
) -> dict[str, Any]:
    """Return what `timm.create_model("local-dir:FOLDER")` and transformers read.

    Args:
        classifier: The network, with the colors it was trained with.
        class_names: K names, in label order.
        crop_pct: The share of the resized shorter side that the evaluation crop keeps, in (0, 1].

    Source: timm/models/_hub.py, save_config_for_hf; transformers' TimmWrapperConfig.
    """
    variant = find_variant(classifier.name)
    known: Any = getattr(classifier.backbone, "pretrained_cfg", {})
    size = [3, classifier.resolution, classifier.resolution]
    return {
        "architecture": variant.timm_name.split(".")[0],
        "model_type": "timm_wrapper",
        "num_classes": classifier.num_classes,
        "num_features": getattr(classifier.backbone, "num_features", None),
        "model_args": timm_arguments(variant, classifier.resolution),
        "label_names": list(class_names),
        "pretrained_cfg": {
            **{key: known[key] for key in _NETWORK_KEYS if known.get(key) is not None},
            "num_classes": classifier.num_classes,
            "input_size": size,
            "mean": list(classifier.mean),
            "std": list(classifier.std),
            "interpolation": "bicubic",
            "crop_pct": crop_pct,
            "crop_mode": "center",
        },
    }


def timm_arguments(variant: Variant, resolution: int) -> Mapping[str, int]:
    """Return what `timm.create_model` takes beside the name to rebuild a network."""
    size = {"img_size": resolution} if variant.fixed_resolution else {}
    return {**variant.model_args, **size}
