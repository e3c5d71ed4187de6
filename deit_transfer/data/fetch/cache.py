"""The cache folder: indexes and unpacked tables, all of which can be rebuilt.

Nothing is ever written beside the user's data, which may be read-only or shared. A cached file
is named by what it was made from, so that a changed original is never served from it.
"""

import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]  # of NumPy arrays, none of them of objects


def user_cache() -> Path:
    """Return this program's folder in the user's cache ($XDG_CACHE_HOME, or ~/.cache)."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "deit-transfer"


def key_of(files: Iterable[Path], *purpose: str) -> str:
    """Return what names the present content of files, without reading them: path, size, time.

    Args:
        files: The originals.
        purpose: What is made from them; another purpose gives another key.
    """
    digest = hashlib.sha256("\0".join(purpose).encode())
    for path in files:
        status = path.stat()
        described = f"\0{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
        digest.update(described.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def read_arrays(name: str) -> Arrays | None:
    """Return cached arrays, or None where there are none or they are damaged."""
    try:
        # Opened here: np.load leaves a damaged file open.
        with _path(name).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        return None


def write_arrays(name: str, arrays: Arrays) -> None:
    """Keep arrays for the next time; a cache that cannot be written is no error."""
    path = _path(name)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".index-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, **arrays)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)


def _path(name: str) -> Path:
    return user_cache() / "index" / f"{name}.npz"
