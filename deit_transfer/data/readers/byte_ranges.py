"""Images that lie as byte ranges within a few large files: shards, archives, tables.

Any image is read by itself, so that the sample order stays a function of seed and epoch, and a
resumed run goes on exactly. Nothing is decompressed or decoded here.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import Strings, printable_name

_MOST_OPEN = 128  # files; systems allow 256 to 1024 in a process


class ByteRanges:
    """Reads byte ranges by index.

    Args:
        files: The large files.
        file_of: (N,) which of them an image lies in.
        starts: (N,) first byte of each image.
        lengths: (N,) bytes of each image.
        names: What each image is called inside its file, for messages.
    """

    def __init__(
        self,
        *,
        files: Sequence[Path],
        file_of: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        names: Strings,
    ) -> None:
        self.files = tuple(files)
        self.file_of = file_of.astype(np.int32)
        self.starts = starts
        self.lengths = lengths
        self.names = names
        self._open: dict[int, int] = {}

    def read(self, position: int) -> bytes:
        number, length = int(self.file_of[position]), int(self.lengths[position])
        # pread keeps no place in the file, so forked workers may share what is open.
        data = os.pread(self._descriptor(number), length, int(self.starts[position]))
        if len(data) != length:
            raise OSError(errno.EIO, "the file ends early", str(self.files[number]))
        return data

    def where(self, position: int) -> str:
        file = self.files[int(self.file_of[position])]
        return printable_name(f"{file}: {self.names[position]}")

    def size(self, position: int) -> int:
        return int(self.lengths[position])

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            if len(self._open) >= _MOST_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[number] = os.open(self.files[number], os.O_RDONLY)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # open files do not travel

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)
