"""Read pretrained weights, and write and read the two model files of a finished run.

A run's folder holds `weights.safetensors` (the backbone's state dict in timm's names) and
`model.json` (what to build before loading it). This module reads and writes those two and
nothing else of a run.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from timm.data import ImageNetInfo
from torch import Tensor

from deit_transfer.errors import CheckpointError, ResourceError, UsageError, did_you_mean
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.published_weights import (
    HUB_CONFIG,
    HUB_FILES,
    find_hub_file,
    find_published_weights,
)
from deit_transfer.models.variants import find_variant
from deit_transfer.models.weights_file import WEIGHTS_SUFFIXES, read_weights_file

WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.json"

NONE = "none"
IMAGENET_CLASSES = 1000
IMAGENET = "imagenet"
LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"


@dataclass(frozen=True)
class PretrainedWeights:
    """Pretrained weights, and what is known about where they come from.

    `state_dict` is empty for a start from nothing.
    """

    state_dict: Mapping[str, Tensor]
    origin: str
    model_name: str | None = None
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def is_none(self) -> bool:
        """Whether these are no weights at all: training from scratch."""
        return not self.state_dict


class _ModelFile(BaseModel):
    """The content of `model.json`: what to build before loading the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    num_classes: int = Field(ge=1)
    resolution: int = Field(ge=1)
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    two_class_tokens: bool = False
    weights_sha256: str | None = None


def read_pretrained(
    start: str, *, model_name: str, cache_dir: Path | None = None
) -> PretrainedWeights:
    """Read the weights that a start names.

    Args:
        start: "none"; "imagenet" (the published weights of `model_name`); a run's folder; a
            `.safetensors`, `.pth` or `.pt` file; a folder in timm's or the hub's layout, also
            written `local-dir:FOLDER`; or `hf-hub:OWNER/NAME[@REVISION]`.
        model_name: The network about to be trained.
        cache_dir: The hub's cache; None takes the usual one.

    Raises:
        UsageError: "imagenet" for a network without published weights.
        CheckpointError: The start does not exist, is damaged, cannot be downloaded, or is a
            pickle that asks for code to be run.
    """
    if start == NONE:
        return PretrainedWeights({}, "nothing (random initialization)")
    if start == IMAGENET:
        return _read_imagenet(model_name, cache_dir)
    if start.startswith(HF_HUB):
        repository = start.removeprefix(HF_HUB)
        weights = find_hub_file(repository, HUB_FILES, cache_dir=cache_dir)
        find_hub_file(repository, (HUB_CONFIG,), cache_dir=cache_dir)  # lands beside the weights
        return _read_timm_folder(weights.parent, origin=start)
    path = Path(start.removeprefix(LOCAL_DIR)).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if not path.exists() and not _looks_like_path(start):
        raise CheckpointError(
            f"unknown start {start!r}: it is neither a file, a folder, '{IMAGENET}' nor '{NONE}'",
            hint=did_you_mean(start, (IMAGENET, NONE))
            or f"Give '{IMAGENET}', '{NONE}', a run's folder, a .safetensors or .pth file, "
            f"'{LOCAL_DIR}FOLDER' or '{HF_HUB}OWNER/NAME'",
        )
    return PretrainedWeights(_finite(read_weights_file(path), path), f"the file {path}")


def write_model_files(
    folder: Path,
    classifier: Classifier,
    *,
    class_names: Sequence[str],
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `weights.safetensors` and `model.json` into a run's folder, each whole or not at all.

    `model.json` comes last and holds the hash of the weights: its presence says that the run
    has finished.

    Args:
        folder: An existing folder.
        classifier: What to write.
        class_names: K names, in label order.
        state_dict: The backbone's tensors to write instead of the classifier's own, such as an
            average of the weights.

    Raises:
        ResourceError: The disk is full; files already there are untouched.
    """
    if len(class_names) != classifier.num_classes:
        raise ValueError(f"{len(class_names)} class names for {classifier.num_classes} classes")
    tensors = classifier.backbone.state_dict() if state_dict is None else state_dict
    # a copy each: safetensors refuses tensors that share memory
    plain = {
        key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()
    }
    weights = safetensors.torch.save(plain)
    description = _ModelFile(
        model=classifier.name,
        num_classes=classifier.num_classes,
        resolution=classifier.resolution,
        class_names=tuple(class_names),
        mean=classifier.mean,
        std=classifier.std,
        two_class_tokens=classifier.two_class_tokens,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )
    _write_whole(folder / WEIGHTS_FILE, weights)
    _write_whole(folder / MODEL_FILE, description.model_dump_json(indent=2).encode() + b"\n")


def read_model(folder: Path, *, device: torch.device) -> tuple[Classifier, tuple[str, ...]]:
    """Rebuild the network of a finished run, heads included.

    Returns:
        The classifier in evaluation mode on `device`, and its class names in label order.

    Raises:
        CheckpointError: The run has not finished, or its files are damaged or do not fit.
    """
    description, state_dict = _read_run(folder)
    try:
        classifier = build_classifier(
            name=description.model,
            num_classes=description.num_classes,
            resolution=description.resolution,
            two_class_tokens=description.two_class_tokens,
        )
        classifier.backbone.load_state_dict(state_dict, strict=True)
    except (UsageError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} does not fit the network in {folder / MODEL_FILE}: {error}"
        ) from error
    classifier.mean, classifier.std = description.mean, description.std
    return classifier.to(device).eval(), description.class_names


def _read_imagenet(model_name: str, cache_dir: Path | None) -> PretrainedWeights:
    variant = find_variant(model_name)
    path, source = find_published_weights(variant, cache_dir=cache_dir)
    state_dict = _finite(read_weights_file(path), path)
    origin = f"the published ImageNet weights {source}"
    names = _imagenet_class_names() if variant.num_classes == IMAGENET_CLASSES else None
    return PretrainedWeights(state_dict, origin, variant.name, class_names=names)


def _imagenet_class_names() -> tuple[str, ...]:
    """Return the 1000 synsets in label order: the names of the published heads' classes."""
    return tuple(ImageNetInfo().label_names())


def _read_folder(folder: Path) -> PretrainedWeights:
    """Read a run's folder, or one in timm's layout."""
    is_run = (folder / WEIGHTS_FILE).is_file()
    if not is_run and any((folder / name).is_file() for name in HUB_FILES):
        return _read_timm_folder(folder, origin=f"the folder {folder}")
    description, state_dict = _read_run(folder)
    return PretrainedWeights(
        state_dict,
        f"the run {folder}",
        model_name=description.model,
        class_names=description.class_names,
        mean=description.mean,
        std=description.std,
    )


def _read_timm_folder(folder: Path, *, origin: str) -> PretrainedWeights:
    """Read `model.safetensors` and, where there is one, timm's `config.json` beside it."""
    weights = next(folder / name for name in HUB_FILES if (folder / name).is_file())
    config = _read_json(folder / HUB_CONFIG) if (folder / HUB_CONFIG).is_file() else {}
    pretrained = config.get("pretrained_cfg", config)
    labels = config.get("label_names") or pretrained.get("label_names")
    return PretrainedWeights(
        _finite(read_weights_file(weights), weights),
        origin,
        model_name=config.get("architecture"),
        class_names=tuple(map(str, labels)) if isinstance(labels, list) else None,
        mean=tuple(pretrained["mean"]) if "mean" in pretrained else None,
        std=tuple(pretrained["std"]) if "std" in pretrained else None,
    )


def _read_run(folder: Path) -> tuple[_ModelFile, dict[str, Tensor]]:
    """Read and check the two files of a finished run."""
    missing = [name for name in (WEIGHTS_FILE, MODEL_FILE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} has no {' and no '.join(missing)}",
            hint="The run has not finished, or this is not a run's folder; finish it with "
            "--resume, or give a weights file",
        )
    try:
        description = _ModelFile.model_validate(_read_json(folder / MODEL_FILE))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise CheckpointError(f"{folder / MODEL_FILE} is not usable: {faults}") from error
    if len(description.class_names) != description.num_classes:
        raise CheckpointError(
            f"{folder / MODEL_FILE} names {len(description.class_names)} classes for a network "
            f"of {description.num_classes}"
        )
    path = folder / WEIGHTS_FILE
    if description.weights_sha256 not in (None, _sha256(path)):
        raise CheckpointError(
            f"{path} is not the file that was written: its SHA-256 differs from the one in "
            f"{MODEL_FILE}",
            hint="Copy the run's folder again, or take an earlier checkpoint of the run",
        )
    return description, _finite(read_weights_file(path), path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def _finite(state_dict: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Refuse weights that are not numbers: a diverged run saved them."""
    bad = [
        key
        for key, value in state_dict.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
    if bad:
        raise CheckpointError(
            f"{path} holds values that are not finite, in {', '.join(bad[:3])}"
            f"{' and others' if len(bad) > 3 else ''}",
            hint="The run that wrote it diverged; take an earlier checkpoint",
        )
    return state_dict


def _looks_like_path(start: str) -> bool:
    return any(mark in start for mark in ("/", os.sep, ":")) or start.endswith(WEIGHTS_SUFFIXES)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_whole(path: Path, content: bytes) -> None:
    """Write through a temporary file beside the target, so that a crash leaves the old one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # exclusive: a link planted here is not followed
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(
            f"{path} ({len(content):,} bytes) cannot be written: {error.strerror}",
            hint="Free some space or choose another folder with --out, then use --resume",
        ) from error
