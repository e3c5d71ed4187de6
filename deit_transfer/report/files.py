"""Own writing a report's files: each appears whole or not at all, and replaces only when whole."""

import contextlib
import errno
import os
from pathlib import Path

from deit_transfer.errors import ResourceError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text so that `path` holds either its old or its new content.

    Raises:
        ResourceError: The disk or the quota is full; the old file is left as it was.
    """
    write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write bytes to a temporary file beside `path`, flush them to disk, and rename it there.

    Raises:
        ResourceError: The disk or the quota is full; the old file is left as it was.
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
                f"No room for {path} ({len(content):,} bytes): {error.strerror}",
                hint="Free disk space and run the same command again; finished runs are reused",
            ) from error
        raise
