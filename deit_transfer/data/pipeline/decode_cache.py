"""Keep a small split decoded in memory: all pixels in one block, decoded before training.

Forked workers share the block, as nothing ever writes to it. A split that does not fit is left
to be decoded image by image.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline.decode import read_rgb
from deit_transfer.errors import ImageError

Progress = Callable[[int, int], None]

_PROBES = 32  # images decoded to tell whether the rest is worth trying


class Reader(Protocol):
    """Returns an image's pixels by its index in the split."""

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Return pixels (H, W, 3); raises ImageError."""


class DirectReader:
    """Reads and decodes each image when it is needed."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def pixels(self, index: int) -> NDArray[np.uint8]:
        return read_rgb(self.images, index)


class DecodedImages:
    """A split's pixels one after the other, and the errors of unreadable images."""

    def __init__(
        self,
        *,
        block: NDArray[np.uint8],
        ends: NDArray[np.int64],
        sides: NDArray[np.int32],
        errors: dict[int, ImageError],
    ) -> None:
        self.block = block  # (bytes,)
        self.ends = ends  # (N,)
        self.sides = sides  # (N, 2): height, width
        self.errors = errors

    def pixels(self, index: int) -> NDArray[np.uint8]:
        if index in self.errors:
            raise self.errors[index]
        height, width = self.sides[index]
        end = self.ends[index]
        return self.block[end - 3 * int(height) * int(width) : end].reshape(height, width, 3)


def open_reader(
    images: ImageSet, *, decode_cache_mb: int, progress: Progress | None = None
) -> Reader:
    """Decode the split once if it fits `decode_cache_mb` mebibytes, else read as asked.

    Args:
        images: The split. One that holds pixels already needs no copy and gets none.
        decode_cache_mb: Memory for decoded pixels; 0 turns the cache off.
        progress: Called now and then with (images decoded, images); may raise to stop.
    """
    direct = DirectReader(images)
    limit = decode_cache_mb * 2**20
    if limit == 0 or len(images) == 0 or isinstance(_first_read(images), np.ndarray):
        return direct
    estimate = _estimate_bytes(direct, len(images))
    if estimate > limit:
        return direct
    return _decode_all(direct, len(images), int(estimate), limit, progress) or direct


def _first_read(images: ImageSet) -> bytes | NDArray[np.uint8]:
    try:
        return images.read(0)
    except OSError:
        return b""  # a file, if one that is missing


def _estimate_bytes(direct: DirectReader, count: int) -> float:
    """Extrapolate the decoded size from images spread over the split."""
    sizes = []
    for index in np.unique(np.linspace(0, count - 1, _PROBES).astype(int)):
        try:
            sizes.append(direct.pixels(int(index)).nbytes)
        except ImageError:
            sizes.append(0)
    return float(np.mean(sizes)) * count


def _decode_all(
    direct: DirectReader, count: int, estimate: int, limit: int, progress: Progress | None
) -> DecodedImages | None:
    """Decode every image into one block; None as soon as it outgrows `limit`."""
    # Memory that is never touched is never taken, so a generous block costs nothing.
    block = np.empty(min(limit, estimate + estimate // 4 + 2**20), np.uint8)
    ends = np.zeros(count, np.int64)
    sides = np.zeros((count, 2), np.int32)
    errors: dict[int, ImageError] = {}
    end = 0
    for index in range(count):
        try:
            pixels = direct.pixels(index)
        except ImageError as error:
            errors[index] = error
        else:
            start, end = end, end + pixels.nbytes
            if end > limit:
                return None
            if end > len(block):
                grown = np.empty(min(limit, 2 * end), np.uint8)
                grown[:start] = block[:start]
                block = grown
            block[start:end] = pixels.reshape(-1)
            sides[index] = pixels.shape[:2]
        ends[index] = end
        if progress is not None and (index % 256 == 255 or index == count - 1):
            progress(index + 1, count)
    block.flags.writeable = False
    return DecodedImages(block=block, ends=ends, sides=sides, errors=errors)
