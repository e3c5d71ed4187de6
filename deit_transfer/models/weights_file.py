"""Read a weights file into a state dict, safely: no code in a file is ever run.

The format is told by the content, not by the name: safetensors, or a torch file read with
`weights_only=True` whatever happens. The original DeiT checkpoints hold their command line as an
`argparse.Namespace`, sometimes with paths in it; exactly these classes are allowed, and only
while one file is being read.
"""

import argparse
import pathlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deit_transfer.errors import CheckpointError

# Where a training checkpoint keeps its state dict. The EMA copies come last: the paper's code
# saved one but neither evaluated nor reported it.
STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict", "model_ema", "state_dict_ema")

# Left by DistributedDataParallel, torch.compile and this program's Classifier.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "backbone.")

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")

# Python 3.13 pickles paths under another module name.
_ALLOWED_CLASSES: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    (pathlib.PosixPath, "pathlib._local.PosixPath"),
]

_LFS_POINTER = b"version https://git-lfs"


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` file or a torch checkpoint, on the CPU.

    Args:
        path: A safetensors file, a torch state dict, or a training checkpoint that holds one
            under one of `STATE_DICT_KEYS`, such as the original DeiT `.pth`.

    Returns:
        Tensors by their name in the network, wrapper prefixes removed.

    Raises:
        CheckpointError: The file is missing, damaged, not a weights file, or a pickle that asks
            for code to be run.
    """
    opening = _read_opening(path)
    if _looks_like_safetensors(opening):
        return _strip_prefixes(_read_safetensors(path))
    if opening.startswith((b"PK\x03\x04", b"\x80")):  # torch's zip archive, and its older pickle
        return _strip_prefixes(_find_state_dict(_read_torch_file(path), path))
    raise CheckpointError(
        f"{path} is not a weights file: {_describe_content(opening)}",
        hint="Give a .safetensors file or a torch .pth with a state dict",
    )


def _read_opening(path: Path) -> bytes:
    """Return the first bytes of a file, or say why it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is nothing at {path}: no run's folder and no weights file",
            hint=_path_hint(path),
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"the weights file {path} cannot be read: {error.strerror}"
        ) from error


def _looks_like_safetensors(opening: bytes) -> bool:
    """Return whether the bytes start with a header length and a JSON object."""
    return len(opening) > 8 and opening[8:9] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_torch_file(path: Path) -> Any:
    try:
        # A file object, since torch.load goes by the suffix of a path.
        with (
            path.open("rb") as file,
            warnings.catch_warnings(action="ignore"),  # the errors below say what matters
            torch.serialization.safe_globals(_ALLOWED_CLASSES),
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked_for = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks for {asked_for.group(1)}" if asked_for else "gives instructions"
        raise CheckpointError(
            f"{path} was refused and nothing in it was run: its pickle {what}, "
            "which plain weights do not need",
            hint="Save only the weights, as safetensors, where you trust the file: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        ) from error
    except Exception as error:  # a damaged archive or pickle raises almost anything
        raise _damaged(path, error) from error


def _find_state_dict(payload: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint's payload."""
    if isinstance(payload, Mapping):
        for key in STATE_DICT_KEYS:
            if isinstance(payload.get(key), Mapping):
                payload = payload[key]
                break
        tensors = {key: value for key, value in payload.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(payload):
            return tensors
        found = f"the entries {', '.join(map(repr, list(payload)[:6]))}" if payload else "no entry"
    else:
        found = f"a {type(payload).__name__}"
    raise CheckpointError(
        f"{path} holds {found}, not a state dict of tensors",
        hint=f"A checkpoint keeps its weights under one of: {', '.join(STATE_DICT_KEYS)}",
    )


def _strip_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that every name shares because the network was wrapped."""
    for _ in WRAPPER_PREFIXES:
        for prefix in WRAPPER_PREFIXES:
            if state_dict and all(key.startswith(prefix) for key in state_dict):
                state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return state_dict


def _describe_content(opening: bytes) -> str:
    """Describe what a file that holds no weights seems to be."""
    if not opening:
        return "it is empty"
    if opening.startswith(_LFS_POINTER):
        return "it is a Git LFS pointer, the content was not fetched"
    if opening.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, probably an error page saved in its place"
    return f"it starts with {opening[:8]!r}"


def _path_hint(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist either"
    place = "This folder" if folder == Path() else str(folder)
    names = sorted(entry.name for entry in folder.glob("*") if entry.suffix in WEIGHTS_SUFFIXES)
    if names:
        return f"{place} has {', '.join(names[:5])}"
    return f"{place} has no weights file. Give the path of one, of a run's folder, or imagenet"


def _damaged(path: Path, error: Exception) -> CheckpointError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    first_sentence = first_line.partition(". ")[0]
    return CheckpointError(
        f"{path} is damaged or incomplete ({path.stat().st_size:,} bytes): {first_sentence[:200]}",
        hint="Copy or download the file again",
    )
