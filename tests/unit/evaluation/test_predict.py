"""Which images a path means: every image below a folder, however it is spelled, once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deit_transfer.errors import DataError
from deit_transfer.evaluation.predict import find_images


def test_every_spelling_of_a_folder_means_all_its_images(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(train=2, test=0, size=8) / "train"  # three classes of two images
    monkeypatch.chdir(folder / "cat")
    for paths in (["."], ["../cat"], [str(folder / "cat")]):
        images, notes = find_images([Path(path) for path in paths])
        assert (len(images), notes) == (2, [])
    for paths in ([".."], ["../dog/.."], [str(folder)], ["..", ".", "../cat/000.png"]):
        assert len(find_images([Path(path) for path in paths])[0]) == 6


def test_a_folder_of_photos_in_heic_says_so(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"heic")
    with pytest.raises(DataError, match="HEIC"):
        find_images([tmp_path])
