"""Read pretrained weights, and write and read the model files of a finished run.

A run's folder holds `model.safetensors` (the backbone's state dict in timm's names), `config.json`
(by which timm and transformers open the folder) and `model.json` (what to build here before
loading it). This module reads and writes those and nothing else of a run.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from timm.data import ImageNetInfo
from torch import Tensor

from deit_transfer.errors import CheckpointError, ResourceError, UsageError, did_you_mean
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.hub_config import hub_config
from deit_transfer.models.published_weights import (
    HUB_CONFIG,
    HUB_FILES,
    find_hub_file,
    find_published_weights,
)
from deit_transfer.models.variants import find_variant
from deit_transfer.models.weights_file import WEIGHTS_SUFFIXES, read_weights_file

WEIGHTS_FILE = "model.safetensors"
EARLIER_WEIGHTS_FILE = "weights.safetensors"  # before 0.2
MODEL_FILE = "model.json"

RUN_MARK = "recipe.toml"  # the last file with which a run's folder begins
HF_PREPROCESSOR = "preprocessor_config.json"
# Pillow's numbers of its filters, as transformers writes them
_PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

NONE = "none"
IMAGENET_CLASSES = 1000
IMAGENET = "imagenet"
LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"


@dataclass(frozen=True)
class PretrainedWeights:
    """Pretrained weights, and what is known about where they come from.

    `state_dict` is empty for training from scratch, and only then. `config` is timm's
    `pretrained_cfg` of a folder; `notes` say which of several weights in a file these are.
    """

    state_dict: Mapping[str, Tensor]
    origin: str
    model_name: str | None = None
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
        # these land beside the weights
        config = find_hub_file(repository, (HUB_CONFIG,), cache_dir=cache_dir)
        if _is_transformers_config(_read_json(config)):
            find_hub_file(repository, (HF_PREPROCESSOR,), cache_dir=cache_dir)
        return _read_hub_folder(weights.parent, origin=start)
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
    file = read_weights_file(path)
    return PretrainedWeights(_finite(file.state_dict, path), f"the file {path}", notes=file.notes)


def write_model_files(
    folder: Path,
    classifier: Classifier,
    *,
    class_names: Sequence[str],
    crop_pct: float,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights, `config.json` and `model.json` into a run's folder, each whole or not at all.

    `model.json` comes last and holds the hash of the weights: its presence says that the run
    has finished.

    Args:
        folder: An existing folder.
        classifier: What to write.
        class_names: K names, in label order.
        crop_pct: The share of the resized shorter side that the evaluation crop keeps, in (0, 1].
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
    config = hub_config(classifier, class_names=class_names, crop_pct=crop_pct)
    _write_whole(folder / WEIGHTS_FILE, weights)
    _write_whole(folder / HUB_CONFIG, json.dumps(config, indent=2).encode() + b"\n")
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
            f"{weights_path(folder)} does not fit the network in {folder / MODEL_FILE}: {error}"
        ) from error
    classifier.mean, classifier.std = description.mean, description.std
    return classifier.to(device).eval(), description.class_names


def weights_path(folder: Path) -> Path:
    """Return where a run's weights lie; runs of earlier versions gave the file another name."""
    path, earlier = folder / WEIGHTS_FILE, folder / EARLIER_WEIGHTS_FILE
    return earlier if earlier.is_file() and not path.is_file() else path


def _read_imagenet(model_name: str, cache_dir: Path | None) -> PretrainedWeights:
    variant = find_variant(model_name)
    path, source = find_published_weights(variant, cache_dir=cache_dir)
    state_dict = _finite(read_weights_file(path).state_dict, path)
    origin = f"the published ImageNet weights {source}"
    names = _imagenet_class_names() if variant.num_classes == IMAGENET_CLASSES else None
    return PretrainedWeights(state_dict, origin, variant.name, class_names=names)


def _imagenet_class_names() -> tuple[str, ...]:
    """Return the 1000 synsets in label order: the names of the published heads' classes."""
    return tuple(ImageNetInfo().label_names())


def _read_folder(folder: Path) -> PretrainedWeights:
    """Read a run's folder, or one in timm's layout."""
    if is_hub_folder(folder):
        return _read_hub_folder(folder, origin=f"the folder {folder}")
    description, state_dict = _read_run(folder)
    return PretrainedWeights(
        state_dict,
        f"the run {folder}",
        model_name=description.model,
        class_names=description.class_names,
        mean=description.mean,
        std=description.std,
    )


def _is_transformers_config(config: Mapping[str, Any]) -> bool:
    """Return whether a `config.json` is of Hugging Face transformers."""
    return "model_type" in config and "pretrained_cfg" not in config


def is_hub_folder(folder: Path) -> bool:
    """Return whether a folder holds weights as timm and the hub lay them out, and is no run."""
    is_run = any((folder / name).is_file() for name in (MODEL_FILE, RUN_MARK))
    return not is_run and any((folder / name).is_file() for name in HUB_FILES)


def _read_hub_folder(folder: Path, *, origin: str) -> PretrainedWeights:
    """Read `model.safetensors` and, where there is one, the `config.json` beside it.

    timm's `config.json` says how images are seen; transformers keeps that in a file of its own.
    """
    weights = next(folder / name for name in HUB_FILES if (folder / name).is_file())
    config = _read_json(folder / HUB_CONFIG) if (folder / HUB_CONFIG).is_file() else {}
    pretrained = config.get("pretrained_cfg", config)
    if _is_transformers_config(config):
        has_preprocessor = (folder / HF_PREPROCESSOR).is_file()
        pretrained = _transformers_view(
            config, _read_json(folder / HF_PREPROCESSOR) if has_preprocessor else {}
        )
    file = read_weights_file(weights)
    return PretrainedWeights(
        _finite(file.state_dict, weights),
        origin,
        model_name=config.get("architecture"),
        class_names=_label_names(config) or _label_names(pretrained),
        mean=_three_numbers(pretrained.get("mean"), folder),
        std=_three_numbers(pretrained.get("std"), folder),
        config=pretrained,
        notes=file.notes,
    )


def _transformers_view(config: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """Translate how transformers shows images to a network into timm's `pretrained_cfg`.

    Args:
        config: Its `config.json`.
        seen: Its `preprocessor_config.json`; empty where there is none.
    """
    view: dict[str, Any] = {}
    if isinstance(config.get("image_size"), int):
        view["input_size"] = (3, config["image_size"], config["image_size"])
    if "image_mean" in seen and "image_std" in seen:
        view |= {"mean": seen["image_mean"], "std": seen["image_std"]}
    if seen.get("resample") in _PILLOW_FILTERS:
        view["interpolation"] = _PILLOW_FILTERS[seen["resample"]]
    sizes = [_side(seen.get(name)) for name in ("size", "crop_size")]
    if sizes[0] is not None:
        shorter_only = isinstance(seen["size"], dict) and "shortest_edge" in seen["size"]
        crop = sizes[1] if seen.get("do_center_crop") and sizes[1] is not None else sizes[0]
        view["crop_mode"] = "center" if shorter_only else "squash"
        view["crop_pct"] = min(crop / sizes[0], 1.0)
    return view


def _side(size: Any) -> int | None:
    """Return the side of a size as transformers writes it: a number, or an object of them."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    return size if isinstance(size, int) and size > 0 else None


def _label_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return timm's `label_names`, or transformers' `id2label` unless it only counts."""
    labels = config.get("label_names")
    if isinstance(labels, list):
        return tuple(map(str, labels))
    by_number = config.get("id2label")
    if not isinstance(by_number, dict) or set(by_number) != set(map(str, range(len(by_number)))):
        return None
    names = tuple(str(by_number[str(number)]) for number in range(len(by_number)))
    if all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        return None
    if len(names) == IMAGENET_CLASSES:  # in words; datasets call the same classes by synset
        info = ImageNetInfo()
        if names[:3] == tuple(info.index_to_description(number) for number in range(3)):
            return _imagenet_class_names()
    return names


def _three_numbers(values: Any, folder: Path) -> tuple[float, ...] | None:
    """Return a mean or deviation of three positive or zero numbers."""
    if values is None:
        return None
    if (
        not isinstance(values, list | tuple)
        or len(values) != 3
        or not all(isinstance(value, int | float) for value in values)
    ):
        raise CheckpointError(f"{folder}: mean and std must be three numbers each, not {values!r}")
    return tuple(map(float, values))


def _read_run(folder: Path) -> tuple[_ModelFile, dict[str, Tensor]]:
    """Read and check the two files of a finished run."""
    path = weights_path(folder)
    missing = [file.name for file in (path, folder / MODEL_FILE) if not file.is_file()]
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
    if description.weights_sha256 not in (None, _sha256(path)):
        raise CheckpointError(
            f"{path} is not the file that was written: its SHA-256 differs from the one in "
            f"{MODEL_FILE}",
            hint="Copy the run's folder again, or take an earlier checkpoint of the run",
        )
    return description, _finite(read_weights_file(path).state_dict, path)


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
