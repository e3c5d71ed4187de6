"""Shared by all tests: one thread each, no network, and small folders of real image files."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import pytest
from photos import write_photos


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes train/ and test/ folders of colored noise, a hue a class."""

    def write(
        name: str = "photos",
        *,
        classes: tuple[str, ...] = ("cat", "dog", "owl"),
        train: int = 8,
        test: int = 4,
        size: int = 32,
    ) -> Path:
        counts = {"train": train, "test": test}
        return write_photos(tmp_path / name, classes=classes, counts=counts, size=size)

    return write
