"""Checksums of a run's text files: what was changed after it was written is not believed.

`checksums.json` holds, for each file, the digest of its content and of the one before. It is
written first: a process that is killed between the two leaves the old content, still known.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from deit_transfer.errors import DataError
from deit_transfer.files import write_text_atomic

CHECKSUMS_FILE = "checksums.json"
ATTEMPTS = 3  # a writer may come between the reading of the two files
PAUSE_S = 0.05


def write_checked(path: Path, text: str) -> None:
    """Write a text file of a run whole or not at all, and its checksum beside it.

    Raises:
        ResourceError: It cannot be written; the old file is left as it was.
    """
    known = _read(path.parent)
    digest = _digest(text.encode("utf-8", "backslashreplace"))
    known[path.name] = list(dict.fromkeys([digest, *known.get(path.name, [])]))[:2]
    write_text_atomic(path.parent / CHECKSUMS_FILE, json.dumps(known, indent=2) + "\n")
    write_text_atomic(path, text)


def read_checked(path: Path) -> str | None:
    """Return the text of a file of a run; None where there is no such file.

    Raises:
        DataError: Its content is not what was written.
    """
    for attempt in range(ATTEMPTS):
        known = _read(path.parent)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        # a file from before there were checksums has none
        if path.name not in known or _digest(content) in known[path.name]:
            try:
                return content.decode("utf-8")
            except UnicodeDecodeError:
                raise damaged(path) from None
        if attempt + 1 < ATTEMPTS:
            time.sleep(PAUSE_S)
    raise damaged(path)


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a run; empty where there is no such file.

    Raises:
        DataError: Its content is not what was written, or no JSON object.
    """
    text = read_checked(path)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged(path) from None
    if not isinstance(found, dict):
        raise damaged(path)
    return found


def damaged(path: Path) -> DataError:
    """Return the error that a file of a run is not as it was written."""
    return DataError(
        f"{path} is damaged: its content is not what was written",
        hint="Take the run's folder from a copy, or remove it and train the run again",
    )


def _read(folder: Path) -> dict[str, list[str]]:
    path = folder / CHECKSUMS_FILE
    try:
        known = json.loads(path.read_bytes())
        assert isinstance(known, dict)
        assert all(isinstance(digests, list) for digests in known.values())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError, AssertionError):
        raise damaged(path) from None
    return known


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
