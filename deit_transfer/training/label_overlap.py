"""Warn when the pretrained weights were trained on these images (label leakage)."""

from pathlib import Path

from timm.data import ImageNetInfo

from deit_transfer.models.pretrained import IMAGENET_CLASSES, PretrainedWeights
from deit_transfer.runs.folder import RESULT_FILE, RunFolder
from deit_transfer.training.data_splits import DataSplits

HEAD = "head.weight"


def label_overlap_notes(start: str, weights: PretrainedWeights, splits: DataSplits) -> list[str]:
    """Return a note if the weights were trained on this dataset, or on ImageNet and this is of it.

    Figures on such images say how well they were learned before, not what a new dataset would give.

    Args:
        start: What a recipe calls the pretrained weights, or a run's folder.
        weights: What was read from it.
        inputs: The images; of their classes the start must have seen some.
    """
    folder = RunFolder(Path(start))
    if folder.is_run:
        shared = set(weights.class_names or ()) & set(splits.class_names)
        trained_on = folder.read_json(RESULT_FILE).get("dataset")
        return (
            _caution(folder.path.name, splits.name) if shared and trained_on == splits.name else []
        )
    synsets = set(ImageNetInfo().label_names())
    if _is_of_imagenet(weights) and set(splits.class_names) <= synsets:
        return _caution(weights.origin, "ImageNet, whose classes these are")
    return []


def _caution(start: str, dataset: str) -> list[str]:
    return [f"{start} was trained on {dataset}: it has seen labels of these images"]


def _is_of_imagenet(weights: PretrainedWeights) -> bool:
    head = weights.state_dict.get(HEAD)
    return head is not None and head.shape[0] == IMAGENET_CLASSES
