"""Find unreadable images of a split before hours are spent on training."""

import io
from collections.abc import Callable

from PIL import Image

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline.decode import read_rgb
from deit_transfer.errors import ImageError

# A guess: about what two cores decode in a few seconds. Beyond it only headers are read, and of
# the largest splits only some.
DECODED_BYTES = 100 * 2**20
HEADERS_READ = 10_000


def find_unreadable(
    images: ImageSet, *, progress: Callable[[int, int], None] | None = None
) -> list[tuple[int, str]]:
    """Return the index of each unreadable image, with the reason.

    A split of up to 100 MiB is decoded whole; of a larger one headers are read, of at most 10,000
    images evenly spread.

    Args:
        images: The split.
        progress: Called with the images done and in total; may raise to stop.
    """
    if sum(_size(images, index) for index in range(min(len(images), HEADERS_READ))) > DECODED_BYTES:
        chosen, look = range(0, len(images), -(-len(images) // HEADERS_READ)), _read_header
    else:
        chosen, look = range(len(images)), _decode
    found = []
    for done, index in enumerate(chosen):
        try:
            look(images, index)
        except ImageError as error:
            found.append((index, error.message))
        if progress is not None:
            progress(done + 1, len(chosen))
    return found


def _size(images: ImageSet, index: int) -> int:
    try:
        return images.size(index)
    except OSError:
        return 0  # found out when it is read


def _decode(images: ImageSet, index: int) -> None:
    read_rgb(images, index)


def _read_header(images: ImageSet, index: int) -> None:
    try:
        data = images.read(index)
        if isinstance(data, bytes):
            with Image.open(io.BytesIO(data)):
                pass
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read {images.where(index)}: {error}") from error
