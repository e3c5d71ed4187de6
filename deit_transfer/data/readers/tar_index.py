"""Index the members of an uncompressed tar for random access.

Nothing is unpacked, so no name in an archive can reach outside a folder. A listing is kept in the
user's cache and made again when the archive changes.
"""

import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import Progress, Strings
from deit_transfer.data.fetch.cache import key_of, read_arrays, write_arrays
from deit_transfer.errors import DataError

_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7z": "unxz", b"(\xb5/": "unzstd"}
_REPORT_EVERY = 2000  # members

_Note = Callable[[str, int, int], None]  # name, first byte, bytes


@dataclass(frozen=True, kw_only=True)
class TarIndex:
    """The regular files of an archive: names, and their byte ranges.

    Shapes: starts, lengths (N,) int64. `passed_over` counts links and other things that are no
    files, by kind.
    """

    names: Strings
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    passed_over: int = 0


def index_tar(archive: Path, *, nested: bool = False, progress: Progress | None = None) -> TarIndex:
    """List the files of a tar archive, from the cache where it was listed before.

    Args:
        archive: An uncompressed tar.
        nested: Its members are tars themselves, whose members are listed as "outer/inner".
        progress: Called with the bytes passed and in total.

    Raises:
        DataError: It is compressed, damaged or cut short.
    """
    key = "tar-" + key_of([archive], "nested" if nested else "plain")
    if (stored := read_arrays(key)) is not None:
        names = stored["names"].tobytes().decode("utf-8", "surrogateescape")
        return TarIndex(
            names=Strings(names.split("\0") if names else []),
            starts=stored["starts"],
            lengths=stored["lengths"],
            passed_over=int(stored["passed_over"]),
        )
    index = _list_members(archive, nested, progress)
    packed = "\0".join(index.names).encode("utf-8", "surrogateescape")
    write_arrays(
        key,
        {
            "names": np.frombuffer(packed, np.uint8),
            "starts": index.starts,
            "lengths": index.lengths,
            "passed_over": np.array(index.passed_over),
        },
    )
    return index


def _list_members(archive: Path, nested: bool, progress: Progress | None) -> TarIndex:
    names: list[str] = []
    starts: list[int] = []
    lengths: list[int] = []
    other: Counter[bytes] = Counter()
    total = archive.stat().st_size

    def note(name: str, start: int, length: int) -> None:
        names.append(name)
        starts.append(start)
        lengths.append(length)
        if progress and len(names) % _REPORT_EVERY == 0:
            progress(start, total)

    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isfile() and nested:
                    _list_nested(tar, member, note)
                elif member.isfile():
                    note(member.name, member.offset_data, member.size)
                elif not member.isdir():
                    other[member.type] += 1
            _check_end(tar)
    except (tarfile.TarError, EOFError) as error:
        raise _unreadable(archive, error) from error
    return TarIndex(
        names=Strings(names),
        starts=np.array(starts, np.int64),
        lengths=np.array(lengths, np.int64),
        passed_over=other.total(),
    )


def _list_nested(tar: tarfile.TarFile, outer: tarfile.TarInfo, note: _Note) -> None:
    stem = outer.name.removesuffix(".tar")
    with tarfile.open(fileobj=tar.extractfile(outer), mode="r:") as inside:
        for member in inside:
            if member.isfile():
                note(f"{stem}/{member.name}", outer.offset_data + member.offset_data, member.size)
        _check_end(inside)


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise unless the archive ends with a block of zeros; tarfile itself takes any end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends without its end mark")


def _unreadable(archive: Path, error: Exception) -> DataError:
    with archive.open("rb") as file:
        head = file.read(3)
    for mark, command in _COMPRESSED.items():
        if head.startswith(mark):
            return DataError(
                f"{archive} is compressed, and only plain tar archives are read in place",
                hint=f"Decompress it, then name the result: {command} {archive}",
            )
    return DataError(
        f"{archive} cannot be read as a tar archive: {error}",
        hint="It is damaged or was cut short. Copy or download it again",
    )
