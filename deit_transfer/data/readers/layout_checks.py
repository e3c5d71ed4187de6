"""Layout checks for published datasets: expected files, counts, and the error messages.

A fault is collected, not raised, so that all that is wrong with a folder is told at once.
"""

import functools
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import DatasetInfo, Split
from deit_transfer.errors import DataError

_MOST_LISTED = 20


def cannot_use(info: DatasetInfo, root: Path, faults: Sequence[str], *, hint: str) -> DataError:
    """Return the error that lists every fault of a dataset's folder."""
    lines = "".join(f"\n  - {fault}" for fault in faults[:_MOST_LISTED])
    more = f"\n  - and {len(faults) - _MOST_LISTED} more" if len(faults) > _MOST_LISTED else ""
    return DataError(f"{info.name} in {root} cannot be used:{lines}{more}", hint=hint)


def missing_files(folder: Path, paths: Iterable[str]) -> list[str]:
    """Return those of `paths` (with forward slashes, below `folder`) that are no files there.

    Each folder is listed once: asking for half a million files one by one takes minutes.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in present:
            present[parent] = _names_in(folder / parent)
        if name not in present[parent]:
            missing.append(path)
    return missing


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(
            f"cannot list {folder}: {error.strerror}", hint="Check that you may read it"
        ) from error


def missing_fault(missing: Sequence[str], total: int, what: str = "images") -> list[str]:
    """Return the fault that says how many of `total` files are missing, or nothing."""
    if not missing:
        return []
    shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return [f"{len(missing):,} of {total:,} {what} are missing ({shown})"]


def count_faults(info: DatasetInfo, counts: Mapping[Split, int]) -> list[str]:
    """Return a fault for each split whose size is not the published one."""
    return [
        f"{split} holds {counts.get(split, 0):,} images, expected {expected:,}"
        for split, expected in info.counts.items()
        if counts.get(split, 0) != expected
    ]


def read_mat(path: Path | BytesIO) -> dict[str, Any]:
    """Read a MATLAB file, with dimensions of one taken away.

    Raises:
        ValueError: It is damaged, or of the kind (7.3) that is really HDF5.
    """
    from scipy.io import loadmat

    source: Any = path  # open files are taken too, which the stubs leave out
    try:
        return loadmat(source, squeeze_me=True)
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        # Damaged files make SciPy's reader raise nearly anything.
        raise ValueError(f"damaged or no MATLAB file ({error or type(error).__name__})") from error


def integers(content: dict[str, Any], key: str) -> NDArray[np.int64]:
    """Return the whole numbers (N,) that a MATLAB file holds under `key`; raises ValueError."""
    if key not in content:
        found = ", ".join(name for name in content if not name.startswith("__"))
        raise ValueError(f"no {key!r} in it, only {found or 'nothing'}")
    values = np.atleast_1d(np.asarray(content[key]))
    if values.ndim != 1 or values.dtype.kind not in "iuf" or (values != np.round(values)).any():
        raise ValueError(f"its {key!r} is no list of whole numbers")
    return values.astype(np.int64)


@functools.cache
def shipped_names(dataset: str) -> tuple[str, ...]:
    """Return the class names of a dataset in label order, as shipped in data/names."""
    text = (
        resources.files("deit_transfer.data")
        .joinpath("names", f"{dataset}.txt")
        .read_text(encoding="utf-8")
    )
    return tuple(text.splitlines())


@functools.cache
def imagenet_file(name: str) -> str:
    """Return the text of one of the ImageNet lists that timm ships, without importing timm.

    Raises:
        DataError: The installed timm has no such list.
    """
    found = importlib.util.find_spec("timm")
    path = Path(found.origin).parent / "data" / "_info" / name if found and found.origin else None
    if path is None or not path.is_file():
        raise DataError(f"timm's list {name} is not installed", hint="pip install 'timm>=1.0.22'")
    return path.read_text(encoding="utf-8")
