"""Save and load checkpoints: written whole or not at all, and verified when they are read.

    checkpoints/
      last-00000120/            the newest state of the run ...
        model.safetensors       weights and buffers
        ema.safetensors         their average, when there is one
        state.pt                optimizer, scaler, progress: plain values and tensors only
        manifest.json           size and SHA-256 of each file, and of the manifest itself
      last-00000100/            ... and the one before, should the newest be damaged
      best-00000080/            the best state
      .writing-*                a write that was cut off; the next save clears it

A checkpoint is written under a name nobody reads, flushed to the disk, and renamed. Refuses to
write weights that are not finite, and to unpickle anything but plain values.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deit_transfer.errors import CheckpointError, DivergedError, ResourceError

Tag = Literal["last", "best"]
GENERATIONS: dict[Tag, int] = {"last": 2, "best": 1}
FORMAT = 1

_MODEL, _EMA, _STATE, _MANIFEST = (
    "model.safetensors",
    "ema.safetensors",
    "state.pt",
    "manifest.json",
)
_WRITING = ".writing-"
_NAME = re.compile(r"(last|best)-(\d{8,})(?:\.(\d+))?")
_DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
LISTINGS = 5  # of a folder in which nothing is seen, before there is said to be nothing


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read; `problems` lists the newer ones that could not be used, and why."""

    path: Path
    tag: Tag
    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    state: dict[str, Any]
    problems: list[str] = field(default_factory=list)


def save_checkpoint(
    folder: Path,
    *,
    tag: Tag,
    step: int,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint, then drop the generations that are no longer kept.

    Args:
        folder: Holds the run's checkpoints; created if need be. One process writes at a time.
        tag: `last` keeps two generations, `best` one.
        step: Steps done; newer `last` checkpoints than this are dropped: the run went back.
        model: Weights and buffers by name.
        ema: Their average.
        state: Nested dicts, lists and tuples of str, int, float, bool, None and tensors.

    Returns:
        The checkpoint's folder.

    Raises:
        DivergedError: A tensor to be saved is not finite.
        ResourceError: The disk is full or may not be written; what is already there is whole.
        ValueError: The state holds something that could not be read back safely.
    """
    state = dict(state or {})
    check_plain(state)
    _check_finite({"model": model, "ema": ema or {}, "state": state}, step)
    size = sum(_tensor_bytes(part) for part in (model, ema or {}, state))
    files = {_MODEL: _packed(model), _STATE: state} | ({_EMA: _packed(ema)} if ema else {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_cut_off_writes(folder)
        path = _write(folder, tag, step, files, size)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise _write_error(error, folder, step, size) from error
        _drop_all_but_newest(folder)
        try:
            path = _write(folder, tag, step, files, size)
        except OSError as again:
            raise _write_error(again, folder, step, size) from again
    _drop_old(folder, tag, step, newest=path)
    return path


def load_checkpoint(folder: Path, *, tag: Tag = "last") -> Checkpoint:
    """Read the newest whole checkpoint with a tag.

    Raises:
        CheckpointError: There is none; the message lists what is wrong with each.
    """
    problems: list[str] = []
    paths = _list_while_saved(folder, tag)
    while paths:
        path = paths.pop()
        try:
            return read_checkpoint(path, problems=problems)
        except CheckpointError as error:
            if path.is_dir():
                problems.append(error.message)
            else:  # a run that is going on has just replaced it
                problems.clear()
                paths = _list_while_saved(folder, tag)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise CheckpointError(f"no {tag} checkpoint in {folder} can be used:{listed}")
    raise CheckpointError(
        f"there is no {tag} checkpoint in {folder}",
        hint="A run that stopped before its first save has nothing to resume: start it anew",
    )


def read_checkpoint(path: Path, *, problems: list[str] | None = None) -> Checkpoint:
    """Read one checkpoint folder, verifying every byte against its manifest.

    Raises:
        CheckpointError: It is incomplete, damaged, or of another format.
    """
    try:
        manifest = _verified_manifest(path)
        ema_file = path / _EMA
        return Checkpoint(
            path=path,
            tag=manifest["tag"],
            step=manifest["step"],
            model=load_file(path / _MODEL),
            ema=load_file(ema_file) if _EMA in manifest["files"] else None,
            state=torch.load(path / _STATE, weights_only=True, map_location="cpu"),
            problems=problems or [],
        )
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}") from error


def _list_while_saved(folder: Path, tag: Tag) -> list[Path]:
    """List the checkpoints of a run that may be saving, when none may be seen for a moment."""
    for _ in range(LISTINGS):
        if paths := list_checkpoints(folder, tag=tag):
            return paths
    return []


def list_checkpoints(folder: Path, *, tag: Tag) -> list[Path]:
    """Return the folders of a tag's checkpoints, oldest first, without looking inside."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.glob(f"{tag}-*") if _NAME.fullmatch(path.name)]
    return sorted((path for path in named if path.is_dir()), key=_order)


def check_plain(value: object, place: str = "state") -> None:
    """Check that a value holds nothing but what `torch.load(weights_only=True)` reads back.

    Raises:
        ValueError: Naming the place and the type.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_plain(key, f"a key of {place}")
            check_plain(inner, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, inner in enumerate(value):  # type: ignore[arg-type]
            check_plain(inner, f"{place}[{position}]")
    elif value is not None and type(value) not in (str, int, float, bool, Tensor):
        raise ValueError(f"{place} is a {type(value)}: a checkpoint holds plain values and tensors")


def _order(path: Path) -> tuple[int, int]:
    """Return a checkpoint's step and the serial of its writing."""
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match[2]), int(match[3] or 0)


def _check_finite(parts: Mapping[str, Any], step: int) -> None:
    bad = [name for name, tensor in _tensors(parts) if not bool(tensor.isfinite().all())]
    if bad:
        raise DivergedError(
            f"refusing to save step {step}: not finite in {', '.join(bad[:4])}"
            f"{f' and {len(bad) - 4} more' if len(bad) > 4 else ''}"
        )


def _tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _tensors(inner, f"{place}[{position}]")


def _tensor_bytes(value: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in _tensors(value))


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory; a clone of the few that do costs little.
    seen: set[int] = set()
    packed = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        packed[name] = own.clone() if own.untyped_storage().data_ptr() in seen else own
        seen.add(own.untyped_storage().data_ptr())
    return packed


def _write(folder: Path, tag: Tag, step: int, files: Mapping[str, Any], size: int) -> Path:
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    writing = folder / f"{_WRITING}{tag}-{step}"
    writing.mkdir()
    try:
        for name, content in files.items():
            with _as_disk_error(writing / name):
                if name == _STATE:
                    torch.save(content, writing / name)
                else:
                    save_file(content, writing / name)
            _flush(writing / name)
        _write_manifest(writing, tag, step, list(files))
        _flush(writing)
        path = _free_name(folder, tag, step)
        os.rename(writing, path)
        _flush(folder)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    return path


@contextmanager
def _as_disk_error(path: Path) -> Iterator[None]:
    """Turn a library's error about a failed write into an OSError with its errno."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        # safetensors names the system's error in its text; torch.save only stops short.
        number = re.search(r"os error (\d+)", str(error))
        if isinstance(error, SafetensorError) and not number:
            raise
        code = int(number[1]) if number else errno.ENOSPC
        raise OSError(code, f"{os.strerror(code)} ({error})", str(path)) from error


def _write_error(error: OSError, folder: Path, step: int, size: int) -> ResourceError:
    hint = "Free disk space and run the same command again with --resume"
    if error.errno not in _DISK_ERRORS:
        hint = "Make the run folder writable and run the same command again with --resume"
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    return ResourceError(
        f"the checkpoint of step {step} cannot be written: {error}. It needs about {size:,} bytes, "
        f"{free:,} are free; the earlier checkpoints are whole",
        hint=hint,
    )


def _write_manifest(folder: Path, tag: Tag, step: int, names: list[str]) -> None:
    content: dict[str, Any] = {
        "format": FORMAT,
        "tag": tag,
        "step": step,
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
            for name in sorted(names)
        },
    }
    content["sha256"] = _own_hash(content)
    with open(folder / _MANIFEST, "x", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
    _flush(folder / _MANIFEST)


def _verified_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        stated = manifest.pop("sha256")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} has no {_MANIFEST}: it was never finished") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path / _MANIFEST} is damaged: {error!r}") from error
    if stated != _own_hash(manifest):
        raise CheckpointError(f"{path / _MANIFEST} is damaged: its SHA-256 does not match")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']}, and this version reads format {FORMAT}"
        )
    for name, entry in manifest["files"].items():
        _verify(path / name, entry)
    return manifest


def _verify(file: Path, entry: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise CheckpointError(f"{file} has {size:,} bytes instead of {entry['bytes']:,}")
    if _sha256(file) != entry["sha256"]:
        raise CheckpointError(f"{file} is damaged: its SHA-256 does not match the manifest")


def _own_hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_name(folder: Path, tag: Tag, step: int) -> Path:
    # The same step is saved twice when a run stops where it has just saved: a second serial, since
    # a folder cannot be replaced in one move.
    orders = [_order(path) for path in list_checkpoints(folder, tag=tag)]
    serials = [serial for saved_step, serial in orders if saved_step == step]
    suffix = f".{max(serials) + 1}" if serials else ""
    return folder / f"{tag}-{step:08d}{suffix}"


def _drop_old(folder: Path, tag: Tag, step: int, *, newest: Path) -> None:
    paths = list_checkpoints(folder, tag=tag)
    ahead = [path for path in paths if _order(path)[0] > step]
    kept = [path for path in paths if path not in ahead][-GENERATIONS[tag] :]
    assert newest in kept
    for path in paths:
        if path not in kept:
            _remove(path)


def _drop_all_but_newest(folder: Path) -> None:
    for path in list_checkpoints(folder, tag="last")[:-1]:
        _remove(path)


def _clear_cut_off_writes(folder: Path) -> None:
    for path in folder.glob(f"{_WRITING}*"):
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    # Renamed first, so that a removal that is cut off leaves no half a checkpoint under its name.
    doomed = path.with_name(f"{_WRITING}{path.name}")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
