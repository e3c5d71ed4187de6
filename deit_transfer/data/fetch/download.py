"""Download published files: verified, resumable, one process at a time.

A file under its final name is complete and has the published checksum, where its publisher states
one; what is still under way ends in `.part`. Nothing is fetched without encryption.
"""

import errno
import hashlib
import http.client
import os
import shutil
import socket
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Protocol

from deit_transfer.data.dataset import Progress
from deit_transfer.errors import DataError, ResourceError

_CHUNK = 1 << 16
_TIMEOUT_S = 30.0  # silence on the line after which an attempt counts as failed
_ATTEMPTS = 5  # in a row without a single new byte; a slow but living server is never given up
_ATTEMPTS_UNCONNECTED = 2  # when nothing came at all: someone offline should not wait long
_PAUSE_S = 2.0  # before the second attempt; doubles


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A published file and the checksum that its publisher states ("md5" or "sha256").

    An empty checksum means that none is published: the file is only known to be complete.
    """

    url: str
    algorithm: str
    checksum: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


class Response(Protocol):
    """The part of an HTTP response that is used: status, headers, and reading in pieces."""

    status: int
    headers: http.client.HTTPMessage

    def read(self, amount: int) -> bytes: ...


# Opens a URL from a byte onwards. Replaced in tests, and by nothing else.
OpenFrom = Callable[[str, int], AbstractContextManager[Response]]


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirection only to another https address."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def open_https(url: str, start: int) -> Iterator[Response]:
    """Open an https address from byte `start`; plain http is refused, also after redirection."""
    _require_https(url)
    headers = {"User-Agent": "deit-transfer", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(_HttpsOnly)
    with opener.open(request, timeout=_TIMEOUT_S) as response:
        yield response


def fetch(
    remote: RemoteFile,
    folder: Path,
    *,
    progress: Progress | None = None,
    by_hand: str = "",
    open_from: OpenFrom = open_https,
    pause_s: float = _PAUSE_S,
) -> Path:
    """Put a published file into a folder, going on with what an earlier attempt left.

    Args:
        remote: The file and its checksum.
        folder: Where it goes; made when missing. A file already there is verified, not fetched.
        progress: Called with bytes done and in total.
        by_hand: What the user can do where there is no network; the hint of every failure.
        open_from: How an address is opened.
        pause_s: Seconds before the second attempt.

    Returns:
        The path of the complete, verified file.

    Raises:
        DataError: Offline, refused, or the checksum differs.
        ResourceError: The disk is full.
    """
    destination = folder / remote.name
    part = destination.with_name(destination.name + ".part")
    with locked(folder, remote.name):
        if not destination.exists():
            _fetch_all(remote, part, progress, by_hand, open_from, pause_s)
            _verify(part, remote, by_hand)
            os.replace(part, destination)
        else:
            _verify(destination, remote, by_hand)
    return destination


def extract_tar(
    archive: Path,
    destination: Path,
    *,
    member: str,
    max_bytes: int,
    progress: Progress | None = None,
    by_hand: str = "",
) -> Path:
    """Unpack one folder or file of a tar archive so that it appears complete or not at all.

    Args:
        archive: The verified archive.
        destination: The folder or file to make; one that exists already is left as it is.
        member: The folder or file inside the archive that becomes `destination`.
        max_bytes: Refuse archives that would unpack to more.
        progress: Called with the bytes of the archive that are read and its size; may raise to
            stop, which leaves nothing behind.
        by_hand: The hint of a failure.

    Raises:
        DataError: The archive is damaged, too large, or reaches outside its folder.
        ResourceError: The disk is full.
    """
    with locked(destination.parent, destination.name):
        if destination.exists():
            return destination
        temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
        try:
            _unpack(archive, temporary, max_bytes, progress)
            if not (temporary / member).exists():
                raise tarfile.TarError(f"it holds no folder or file {member}")
            os.replace(temporary / member, destination)
        except (tarfile.TarError, zlib.error, EOFError) as error:
            raise DataError(f"{archive} cannot be unpacked: {error}", hint=by_hand) from error
        except OSError as error:
            raise _disk_error(error, destination) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return destination


def checksum(path: Path, algorithm: str) -> str:
    """Return the hexadecimal checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Lock `name` against other processes, which wait and find the work done."""
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{name}.lock")
        lock.acquire()
    except OSError as error:
        raise _disk_error(error, folder) from error
    try:
        yield
    finally:
        lock.release()


def _fetch_all(
    remote: RemoteFile,
    part: Path,
    progress: Progress | None,
    by_hand: str,
    open_from: OpenFrom,
    pause_s: float,
) -> None:
    """Read until the file is complete, going on after broken lines as long as it grows."""
    failures, connected = 0, False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch_rest(remote.url, part, before, progress, open_from)
            return
        except (OSError, http.client.HTTPException) as error:
            reason = _check_worth_retrying(error, remote.url, part, by_hand)
        grown = part.exists() and part.stat().st_size > before
        connected |= grown
        failures = 0 if grown else failures + 1
        if failures >= (_ATTEMPTS if connected else _ATTEMPTS_UNCONNECTED):
            raise DataError(f"cannot fetch {remote.url}: {reason}", hint=by_hand)
        time.sleep(min(60.0, pause_s * 2 ** max(0, failures - 1)))


def _fetch_rest(
    url: str, part: Path, start: int, progress: Progress | None, open_from: OpenFrom
) -> None:
    """Append what is missing from byte `start`; OSError means the line, not the disk."""
    with open_from(url, start) as response:
        done = start if response.status == 206 else 0  # 200: the server sends it all again
        length = int(response.headers.get("Content-Length") or 0)
        total = done + length if length else 0
        with _open_part(part, "ab" if done else "wb", room=length) as file:
            while piece := response.read(_CHUNK):
                _write(file, piece, part)
                done += len(piece)
                if progress:
                    progress(done, total)
    if done < total:
        raise http.client.HTTPException(f"the line broke after {done} of {total} bytes")


def _open_part(part: Path, mode: str, *, room: int) -> FileIO:
    free = shutil.disk_usage(part.parent).free
    if room > free:
        raise ResourceError(
            f"{part.parent} has {free / 1e6:.0f} MB free and {part.stem} needs {room / 1e6:.0f}",
            hint="Make room, or give another folder with --data-dir",
        )
    try:
        return FileIO(part, mode)
    except OSError as error:
        raise _disk_error(error, part) from error


def _write(file: FileIO, piece: bytes, part: Path) -> None:
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _disk_error(error, part) from error


def _check_worth_retrying(
    error: OSError | http.client.HTTPException, url: str, part: Path, by_hand: str
) -> str:
    """Return why an attempt failed, or raise at once where another cannot go better."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code == 416 and part.exists():  # the part is longer than the file: start anew
            part.unlink()
        elif error.code < 500 and error.code not in (408, 429):
            raise DataError(f"{url} answers {error.code} {error.reason}", hint=by_hand) from error
        return f"it answers {error.code} {error.reason}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        host = urllib.parse.urlsplit(url).hostname
        raise DataError(
            f"cannot fetch {url}: {host} is unknown (offline?)", hint=by_hand
        ) from error
    return str(reason) or type(reason).__name__


def _verify(path: Path, remote: RemoteFile, by_hand: str) -> None:
    if not remote.checksum:
        return
    found = checksum(path, remote.algorithm)
    if found == remote.checksum:
        return
    message = (
        f"{path} is not the published {remote.name}: "
        f"{remote.algorithm} {found}, expected {remote.checksum}"
    )
    if path.suffix == ".part":
        path.unlink()
        message += " (deleted)"
        hint = f"Try again. {by_hand}"
    else:
        hint = f"Delete it and try again. {by_hand}"
    raise DataError(message, hint=hint.strip())


def _unpack(archive: Path, folder: Path, max_bytes: int, progress: Progress | None) -> None:
    """Extract member by member, stopping before a bomb fills the disk."""
    total, size = 0, archive.stat().st_size
    with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            total += member.size
            if total > max_bytes:
                raise tarfile.TarError(f"it unpacks to more than {max_bytes / 1e6:.0f} MB")
            tar.extract(member, folder, filter="data")
            if progress:
                progress(file.tell(), size)  # of the packed bytes, which are what is known


def _disk_error(error: OSError, path: Path) -> DataError | ResourceError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(
            f"no room to write {path}: {reason}",
            hint="Make room, or give another folder with --data-dir. What is there is kept",
        )
    return DataError(
        f"cannot write {path}: {reason}",
        hint="Give a folder you may write into with --data-dir, or set DEIT_TRANSFER_DATA",
    )


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise DataError(f"{url} is refused: only https addresses are fetched")
