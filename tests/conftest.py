"""Shared by all tests: one thread each, no network, and small folders of real image files."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes train/ and test/ folders of coloured noise, a hue a class."""

    def write(
        name: str = "photos",
        *,
        classes: tuple[str, ...] = ("cat", "dog", "owl"),
        train: int = 8,
        test: int = 4,
        size: int = 32,
    ) -> Path:
        rng = np.random.default_rng(0)
        for split, count in (("train", train), ("test", test)):
            for label, class_name in enumerate(classes):
                folder = tmp_path / name / split / class_name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
                    pixels[..., label % 3] += 150
                    Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        return tmp_path / name

    return write
