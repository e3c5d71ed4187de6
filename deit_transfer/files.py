"""Write files whole or not at all, and replace only files of the same kind."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from deit_transfer.errors import ResourceError, UsageError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
HEAD_BYTES = 2000  # enough to tell by whom a file was written


def check_replaceable(
    path: Path, is_ours: Callable[[bytes], bool], *, ours: str, option: str = "--out"
) -> None:
    """Refuse a place where a file lies that this program did not write; an empty one may go.

    Args:
        path: What is about to be written.
        is_ours: Says whether a file that begins with these bytes is of the kind that is written.
        ours: What such a file is called, as in "a report of this program".
        option: What named the path.

    Raises:
        UsageError: It is a folder, or a file of something else.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder", hint=f"Name a file in it with {option}")
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not is_ours(head):
        raise UsageError(
            f"{path} exists already, and is not {ours}",
            hint=f"Name another file with {option}",
        )


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text so that `path` holds either its old or its new content.

    Raises:
        ResourceError: It cannot be written, as on a full disk; the old file is left as it was.
    """
    write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write bytes to a temporary file beside `path`, flush them to disk, and rename it there.

    Raises:
        ResourceError: It cannot be written, as on a full disk; the old file is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # a leftover of a killed process that had this id may lie here, or a planted link
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if error.errno in FULL:
            raise ResourceError(
                f"no room for {path} ({len(content):,} bytes): {error.strerror}",
                hint="Free disk space and run the same command again; finished runs are reused",
            ) from error
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error}",
            hint="Choose a place that can be written, and run the same command again",
        ) from error
