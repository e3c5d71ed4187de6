"""Write small folders of real image files: colored noise, a hue a class, so easy to tell apart."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def write_photos(
    folder: Path,
    *,
    classes: tuple[str, ...] = CLASSES,
    counts: Mapping[str, int] | None = None,
    size: int = 32,
) -> Path:
    """Write SPLIT/CLASS/NUMBER.png with so many images per class and split; return the folder."""
    rng = np.random.default_rng(0)
    for split, count in (counts or {"train": 8, "test": 4}).items():
        for label, class_name in enumerate(classes):
            place = folder / split / class_name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
                pixels[..., label % 3] += 150
                Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return folder
