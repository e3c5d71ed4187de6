"""Own the short text that changes when the data changes. It proves nothing about intent.

Hashed are class names, and of each split the ids, labels, byte sizes, and the content of up to
a thousand images spread evenly over it: any set of up to a thousand images is covered whole, and
the cost stays at a second or two for large ones.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from deit_transfer.data.contract import SPLITS, ImageSet, Split
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
                    hint="`deit-transfer data check DATASET` lists every image with a fault.",
                ) from error
    return digest.hexdigest()


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
