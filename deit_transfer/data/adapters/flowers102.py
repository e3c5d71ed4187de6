"""Oxford Flowers-102: a folder jpg/ and two MATLAB files, in one folder or two.

The official split has 1,020 training, 1,020 validation and 6,149 test images. Its file says
which; nothing is ever split at random, as copies of the set do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import (
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    ImageSet,
    Progress,
    Split,
)
from deit_transfer.data.fetch.download import RemoteFile, extract_tar, fetch
from deit_transfer.data.readers.layout_checks import (
    cannot_use,
    count_faults,
    integers,
    missing_fault,
    missing_files,
    read_mat,
    shipped_names,
)
from deit_transfer.errors import DataError

_SITE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
_FOLDER = "flowers-102"  # torchvision's; others put the same files into the folder above
_IMAGES = "jpg"
_LABELS = "imagelabels.mat"
_SPLITS = "setid.mat"
_FIRST_IMAGE = "jpg/image_00001.jpg"
_MAX_UNPACKED_BYTES = 1_000_000_000  # it unpacks to about 350 MB
_KEYS: dict[Split, str] = {"train": "trnid", "val": "valid", "test": "tstid"}

# Checksums as torchvision lists them (torchvision/datasets/flowers102.py).
_ARCHIVE = RemoteFile(
    url=_SITE + "102flowers.tgz", algorithm="md5", checksum="52808999861908f626f3c1f4e79d11fa"
)
_MAT_FILES = (
    RemoteFile(url=_SITE + _LABELS, algorithm="md5", checksum="e0620be6f572b9609742df49c70aed4d"),
    RemoteFile(url=_SITE + _SPLITS, algorithm="md5", checksum="a5357ecc9cb78c4bef273ce3793fc85c"),
)

FLOWERS = DatasetInfo(
    name="flowers102",
    title="Oxford Flowers-102",
    num_classes=102,
    counts={"train": 1020, "val": 1020, "test": 6149},
    license="none stated; images from the web, cite Nilsback and Zisserman 2008",
    source=_SITE,
    access="download",
    download_mb=345,
)


@dataclass(frozen=True, kw_only=True)
class FlowersAdapter:
    """Flowers-102 from its original files.

    Args:
        info: The facts, required of the files.
        class_names: Names in label order. They were inferred by others: the authors publish none.
        archive, mat_files: What `download` fetches.
    """

    info: DatasetInfo = FLOWERS
    class_names: tuple[str, ...] = field(default_factory=lambda: shipped_names("flowers102"))
    archive: RemoteFile = _ARCHIVE
    mat_files: tuple[RemoteFile, ...] = _MAT_FILES

    def find(self, data_dir: Path) -> Path | None:
        for folder in (data_dir, data_dir / _FOLDER):
            if any((folder / name).is_file() for name in (_LABELS, _SPLITS, _FIRST_IMAGE)):
                return folder
        return None

    def load(self, root: Path | None) -> Dataset:
        if root is None:
            raise DataError(f"{self.info.name} was not found", hint=self._by_hand(None))
        faults: list[str] = []
        labels = self._read(root, _LABELS, "labels", faults)
        numbers = {key: self._read(root, _SPLITS, key, faults) for key in _KEYS.values()}
        if not (root / _IMAGES).is_dir():
            faults.append(f"{_IMAGES}/ is missing")
        if not faults:
            faults += self._faults(root, labels, numbers)
        if faults:
            raise cannot_use(self.info, root, [*dict.fromkeys(faults)], hint=self._by_hand(root))
        return Dataset(
            info=self.info,
            class_names=self.class_names,
            splits={split: _image_set(root, labels, numbers[key]) for split, key in _KEYS.items()},
            root=root,
            layout="the original files" + (f" in {_FOLDER}/" if root.name == _FOLDER else ""),
            notes=["the official split; the paper trains on train and val: data.train_on"],
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        """Fetch what is missing: images, labels and split, each by itself."""
        folder = self.find(data_dir) or data_dir / _FOLDER
        by_hand = self._by_hand(folder)
        for remote in self.mat_files:
            fetch(remote, folder, progress=progress, by_hand=by_hand)
        if not (folder / _IMAGES).is_dir():
            archive = fetch(self.archive, folder, progress=progress, by_hand=by_hand)
            extract_tar(
                archive,
                folder / _IMAGES,
                member=_IMAGES,
                max_bytes=_MAX_UNPACKED_BYTES,
                progress=progress,
                by_hand=by_hand,
            )
        return folder

    def _read(self, root: Path, name: str, key: str, faults: list[str]) -> NDArray[np.int64]:
        if not (root / name).is_file():
            faults.append(f"{name} is missing")
            return np.zeros(0, np.int64)
        try:
            return integers(read_mat(root / name), key)
        except (OSError, ValueError) as error:
            faults.append(f"{name}: {error}")
            return np.zeros(0, np.int64)

    def _faults(
        self, root: Path, labels: NDArray[np.int64], numbers: dict[str, NDArray[np.int64]]
    ) -> list[str]:
        """Compare labels, split and images with each other and with what is published."""
        counts = {split: len(numbers[key]) for split, key in _KEYS.items()}
        faults = count_faults(self.info, counts)
        if faults and counts["train"] == self.info.counts["test"]:
            faults.append("the training and test lists have changed places: not the official split")
        listed = np.sort(np.concatenate(list(numbers.values())))
        if not np.array_equal(listed, np.arange(1, len(labels) + 1)):
            faults.append(f"{_SPLITS} does not name each of {len(labels):,} images exactly once")
        if len(labels) and not 1 <= labels.min() <= labels.max() <= len(self.class_names):
            faults.append(f"{_LABELS} has labels outside 1..{len(self.class_names)}")
        names = [_file_name(number) for number in range(1, len(labels) + 1)]
        absent = missing_files(root / _IMAGES, names)
        return faults + missing_fault(absent, len(names), f"images in {_IMAGES}/")

    def _by_hand(self, folder: Path | None) -> str:
        place = str(folder) if folder is not None else "one folder"
        return (
            f"Put {self.archive.name} (unpacked: {_IMAGES}/), {_LABELS} and {_SPLITS} from {_SITE} "
            f"into {place}, then type: deit-transfer data prepare {self.info.name} --data-dir "
            f"{folder if folder is not None else 'FOLDER'}"
        )


def _image_set(
    root: Path, labels: NDArray[np.int64], numbers: Sequence[int] | NDArray[np.int64]
) -> ImageSet:
    ordered = np.sort(numbers)
    names = [_file_name(int(number)) for number in ordered]
    return ImageSet.from_files(root / _IMAGES, names, labels[ordered - 1] - 1)


def _file_name(number: int) -> str:
    return f"image_{number:05d}.jpg"


ADAPTERS: tuple[DatasetAdapter, ...] = (FlowersAdapter(),)
