"""Hash a dataset's contents. Not a security measure.

`fingerprint` is for one copy of a dataset. Hashed are class names, and of each split the ids,
labels, byte sizes, and the content of up to a thousand images spread evenly over it: any set of
up to a thousand images is covered whole, and the cost stays at a second or two for large ones.

`label_fingerprint` is for a dataset through whatever door it came: folders, pickles and tables
give images other names, other bytes and another order, so that only class names and the images
of each class in each split are left to hash. It tells datasets, splits and class orders apart,
not one choice of images from another of the same sizes.

`content_digests` is for single images: equal only for equal files or pixels.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deit_transfer.data.dataset import SPLITS, ImageSet, Split
from deit_transfer.errors import DataError

_HASHED_IMAGES = 1000


def fingerprint(splits: Mapping[Split, ImageSet], class_names: Sequence[str]) -> str:
    """Return 64 hexadecimal digits that name these splits and classes.

    Args:
        splits: The splits as used, after any carving or limiting.
        class_names: Names in label order.

    Raises:
        DataError: A file that was listed is gone.
    """
    digest = hashlib.sha256()
    for name in class_names:
        _add(digest, name.encode("utf-8", "surrogateescape"))
    for split in SPLITS:
        if split in splits:
            _add(digest, split.encode())
            try:
                _add_images(digest, splits[split])
            except OSError as error:
                raise DataError(
                    f"{error.filename} of the {split} split cannot be read: {error.strerror}",
                    hint="`deit-transfer data check DATASET` lists every image with a fault",
                ) from error
    return digest.hexdigest()


def label_fingerprint(splits: Mapping[Split, ImageSet], class_names: Sequence[str]) -> str:
    """Return 64 hexadecimal digits that name the classes and the split sizes of a dataset.

    Args:
        splits: The dataset's own splits, before any carving or limiting.
        class_names: Names in label order.
    """
    digest = hashlib.sha256()
    for name in class_names:
        _add(digest, name.encode("utf-8", "surrogateescape"))
    for split in SPLITS:
        if split in splits:
            _add(digest, split.encode())
            counts = np.bincount(splits[split].labels, minlength=len(class_names))
            _add(digest, counts.astype("<i8").tobytes())
    return digest.hexdigest()


def content_digests(
    images: ImageSet, *, tick: Callable[[], None] | None = None
) -> list[bytes | None]:
    """Return what names the content of each image (N,), 16 bytes; None for one that is gone.

    Args:
        images: Any split; every image is read.
        tick: Called now and then; may raise to stop.
    """
    digests: list[bytes | None] = []
    for index in range(len(images)):
        if tick is not None and index % 1024 == 0:
            tick()
        try:
            content = images.read(index)
        except (OSError, DataError):
            digests.append(None)
            continue
        digest = hashlib.blake2b(digest_size=16)
        if isinstance(content, np.ndarray):
            digest.update(f"{content.shape}".encode())
            content = content.tobytes()
        digest.update(content)
        digests.append(digest.digest())
    return digests


def _add_images(digest: "hashlib._Hash", images: ImageSet) -> None:
    for name in images.ids:
        _add(digest, name.encode("utf-8", "surrogateescape"))
    _add(digest, images.labels.astype("<i8").tobytes())
    sizes = np.fromiter((images.size(i) for i in range(len(images))), "<i8", count=len(images))
    _add(digest, sizes.tobytes())
    step = max(1, -(-len(images) // _HASHED_IMAGES))
    for index in range(0, len(images), step):
        data = images.read(index)
        _add(digest, data.tobytes() if isinstance(data, np.ndarray) else data)


def _add(digest: "hashlib._Hash", part: bytes) -> None:
    """Add one part behind its length, so that moving a border between parts shows."""
    digest.update(len(part).to_bytes(8, "little"))
    digest.update(part)
