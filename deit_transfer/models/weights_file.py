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
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deit_transfer.errors import CheckpointError
from deit_transfer.models.weights_layouts import to_timm_names

# Where a training checkpoint keeps its state dict. The EMA copies come last: the paper's code
# saved one but neither evaluated nor reported it.
STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict", "model_ema", "state_dict_ema")

_AVERAGE_KEYS = ("model_ema", "state_dict_ema")

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")


class _NumberType:
    """Stands in for `numpy.dtype` while a file is read: a type code, and no more.

    numpy's own would take a crafted state from the file.
    """

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Leave out what the file says beyond the code."""


# struct's formats for numpy's type codes
_STRUCT_FORMATS = {
    **{"f2": "e", "f4": "f", "f8": "d", "b1": "?"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}


def _number(kind: object, content: object = None) -> float | int | bool | None:
    """Read a numpy scalar, such as an epoch or a score beside the weights."""
    layout = _STRUCT_FORMATS.get(kind.code) if isinstance(kind, _NumberType) else None
    if layout is None or not isinstance(content, bytes):
        return None
    if len(content) != struct.calcsize(f"<{layout}"):
        return None
    value: float | int | bool = struct.unpack(f"<{layout}", content)[0]
    return value


# Python 3.13 pickles paths under another module name, numpy 2 its scalars.
_ALLOWED_CLASSES: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    (pathlib.PosixPath, "pathlib._local.PosixPath"),
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]

_LFS_POINTER = b"version https://git-lfs"


class WeightsFile(NamedTuple):
    """The tensors of a file under timm's names, and what to know about the choice of them."""

    state_dict: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weights_file(path: Path) -> WeightsFile:
    """Read a state dict from a `.safetensors` file or a torch checkpoint, on the CPU.

    Args:
        path: A safetensors file, a torch state dict, or a training checkpoint that holds one
            under one of `STATE_DICT_KEYS`, such as the original DeiT `.pth`, timm's or
            Lightning's. Hugging Face transformers' names are translated.

    Returns:
        Tensors by their name in timm's network, at least one, wrapper prefixes removed.

    Raises:
        CheckpointError: The file is missing, damaged, not a weights file, without any tensor, or
            a pickle that asks for code to be run.
    """
    opening = _read_opening(path)
    notes: tuple[str, ...] = ()
    if _looks_like_safetensors(opening):
        state_dict = _read_safetensors(path)
        if not state_dict:
            raise CheckpointError(
                f"{path} holds no tensor at all",
                hint="Copy or download the file again; deit-transfer scratch trains without "
                "pretrained weights",
            )
    elif opening.startswith((b"PK\x03\x04", b"\x80")):  # torch's zip archive, and older pickle
        _refuse_torchscript(path)
        state_dict, notes = _find_state_dict(_read_torch_file(path), path)
    else:
        raise CheckpointError(
            f"{path} is not a weights file: {_describe_content(opening)}",
            hint="Give a .safetensors file or a torch .pth with a state dict",
        )
    return WeightsFile(to_timm_names(state_dict, source=str(path)), notes)


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


def _refuse_torchscript(path: Path) -> None:
    """Refuse a TorchScript archive, whose pickles describe code."""
    try:
        with zipfile.ZipFile(path) as archive:
            is_script = any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # the older pickle, or damaged: torch's reader says which
    if is_script:
        raise CheckpointError(
            f"{path} is a TorchScript archive: a program, not a state dict",
            hint="Save its weights where you trust the file: torch.save(torch.jit.load("
            f"'{path.name}').state_dict(), 'weights.pth')",
        )


def _find_state_dict(payload: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict inside a checkpoint's payload, and which of several was taken."""
    notes: tuple[str, ...] = ()
    if isinstance(payload, Mapping):
        held = [key for key in STATE_DICT_KEYS if isinstance(payload.get(key), Mapping)]
        if not held and all(isinstance(payload.get(k), Mapping) for k in ("student", "teacher")):
            raise _two_networks(path)
        if held:
            notes = _average_notes(held)
            payload = payload[held[0]]
        tensors = {key: value for key, value in payload.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(payload):
            return tensors, notes
        found = f"the entries {', '.join(map(repr, list(payload)[:6]))}" if payload else "no entry"
    else:
        found = f"a {type(payload).__name__}"
    raise CheckpointError(
        f"{path} holds {found}, not a state dict of tensors",
        hint=f"A checkpoint keeps its weights under one of: {', '.join(STATE_DICT_KEYS)}",
    )


def _average_notes(held: list[str]) -> tuple[str, ...]:
    """Name the weights that were taken where an average of them is in the file."""
    averages = [key for key in held if key in _AVERAGE_KEYS]
    if not averages:
        return ()
    if held[0] in averages:
        return (f"taken: {held[0]}, an average of the weights, the only ones in the file",)
    return (f"taken: {held[0]}; the average of the weights, {averages[0]}, is not used",)


def _two_networks(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is a checkpoint of self-distillation, as DINO writes it: two networks, student "
        "and teacher",
        hint="Save the one you mean by itself where you trust the file: torch.save(torch.load("
        f"'{path.name}', weights_only=False)['teacher'], 'teacher.pth')",
    )


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
