"""CIFAR-10 and CIFAR-100 as their authors publish them: a folder of pickled batches.

A pickle from an untrusted mirror can be refused and nothing more: see `array_pickle`. Class names,
counts and shapes are checked before use.
"""

import os
from dataclasses import dataclass
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
from deit_transfer.data.fetch.download import RemoteFile, checksum, extract_tar, fetch
from deit_transfer.data.readers.array_pickle import read_pickle
from deit_transfer.errors import DataError

_SIDE = 32
_MAX_UNPACKED_BYTES = 400_000_000  # both sets unpack to about 186 MB
_SITE = "https://www.cs.toronto.edu/~kriz/"

# Published by the authors beside the archives; of the members, as torchvision lists them
# (torchvision/datasets/cifar.py).
_CIFAR10_ARCHIVE = RemoteFile(
    url=_SITE + "cifar-10-python.tar.gz",
    algorithm="md5",
    checksum="c58f30108f718f92721af3b95e74349a",
)
_CIFAR100_ARCHIVE = RemoteFile(
    url=_SITE + "cifar-100-python.tar.gz",
    algorithm="md5",
    checksum="eb9058c3a382ffc7106e4002c42a8d85",
)
_CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
_CIFAR100_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}

_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse "
    "mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy "
    "porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television "
    "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
# The coarse labels of CIFAR-100, each with its five fine ones, as its page lists them.
_CIFAR100_COARSE = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_COARSE_OF = {
    fine: coarse for coarse, members in _CIFAR100_COARSE.items() for fine in members.split()
}


@dataclass(frozen=True, kw_only=True)
class CifarAdapter:
    """CIFAR-10 or CIFAR-100; every fact is a field, so that tests can make a miniature.

    Args:
        info: What the set is; its counts and classes are required of the files.
        folder: Name of the folder the archive unpacks to.
        train_files, test_files, meta_file: Names of the pickles.
        labels_key, names_key: Keys of the labels and the class names inside them.
        class_names: The names the meta file must give.
        groups: Coarse name of each class; empty where the set has none.
        md5: Published checksum of each file.
        archive: What `download` fetches.
    """

    info: DatasetInfo
    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    meta_file: str
    labels_key: str
    names_key: str
    class_names: tuple[str, ...]
    md5: dict[str, str]
    archive: RemoteFile
    groups: tuple[str, ...] = ()

    @property
    def _files(self) -> tuple[str, ...]:
        return (*self.train_files, *self.test_files, self.meta_file)

    def find(self, data_dir: Path) -> Path | None:
        """Look at `data_dir` itself, then for the archive's folder inside it."""
        for folder in (data_dir, data_dir / self.folder):
            if any(os.path.isfile(folder / name) for name in self._files):
                return folder
        return None

    def load(self, root: Path | None) -> Dataset:
        if root is None:
            raise DataError(f"{self.info.name} was not found", hint=self._by_hand(None))
        self._check_files(root)
        faults = self._name_faults(root)
        splits: dict[Split, ImageSet] = {}
        names: dict[Split, tuple[str, ...]] = {"train": self.train_files, "test": self.test_files}
        for split, files in names.items():
            splits[split], found = self._read_split(root, split, files)
            faults += found
        self._raise(root, faults)
        return Dataset(
            info=self.info,
            class_names=self.class_names,
            splits=splits,
            root=root,
            layout=f"the original pickles ({self.folder})",
            notes=self._checksum_notes(root),
            groups=self.groups,
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        if found := self.find(data_dir):
            return found
        by_hand = self._by_hand(data_dir)
        archive = fetch(self.archive, data_dir, progress=progress, by_hand=by_hand)
        return extract_tar(
            archive,
            data_dir / self.folder,
            member=self.folder,
            max_bytes=_MAX_UNPACKED_BYTES,
            progress=progress,
            by_hand=by_hand,
        )

    def _read_split(
        self, root: Path, split: Split, files: tuple[str, ...]
    ) -> tuple[ImageSet, list[str]]:
        """Join the pickles of a split; pixels (N, 32, 32, 3), and what is wrong with them."""
        pixels, labels, faults = [], [], []
        empty = np.zeros(0, np.int64)
        for name in files:
            try:
                planes, classes = self._read_batch(root / name)
            except ValueError as error:
                faults.append(f"{name}: {error}")
                continue
            pixels.append(planes.transpose(0, 2, 3, 1))  # (n, 32, 32, 3)
            labels.append(classes)
        expected = self.info.counts[split]
        found = sum(len(part) for part in labels)
        if not faults and found != expected:
            faults.append(f"{split} holds {found} images, expected {expected}")
        if not pixels:
            return ImageSet.from_arrays(np.zeros((0, 1, 1, 3), np.uint8), empty), faults
        together = np.empty((found, _SIDE, _SIDE, 3), np.uint8)  # contiguous, whatever the parts
        np.concatenate(pixels, out=together)
        return ImageSet.from_arrays(together, np.concatenate(labels), name=split), faults

    def _read_batch(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the planes (n, 3, 32, 32) and labels (n,) of one pickle."""
        batch = read_pickle(path)
        if self.labels_key not in batch or "data" not in batch:
            raise ValueError(f"no {self.labels_key!r} and 'data' in it, only {sorted(batch)}")
        data, labels = batch["data"], _numbers(batch[self.labels_key])
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
            raise ValueError("its 'data' is no array of bytes")
        if data.ndim != 2 or data.shape[1] != 3 * _SIDE * _SIDE:
            raise ValueError(f"its 'data' has shape {data.shape}, expected (N, 3072)")
        if labels.shape != (len(data),):
            raise ValueError(f"{labels.size} labels for {len(data)} images")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise ValueError(f"labels outside 0..{len(self.class_names) - 1}")
        return data.reshape(-1, 3, _SIDE, _SIDE), labels.astype(np.int64)

    def _name_faults(self, root: Path) -> list[str]:
        try:
            found = read_pickle(root / self.meta_file).get(self.names_key)
        except ValueError as error:
            return [f"{self.meta_file}: {error}"]
        if isinstance(found, list) and found == list(self.class_names):
            return []
        return [f"{self.meta_file}: its {self.names_key!r} are not those of {self.info.title}"]

    def _check_files(self, root: Path) -> None:
        missing = [name for name in self._files if not (root / name).is_file()]
        self._raise(root, [f"{name} is missing" for name in missing])

    def _checksum_notes(self, root: Path) -> list[str]:
        differing = [
            name
            for name, published in self.md5.items()
            if checksum(root / name, "md5") != published
        ]
        if not differing:
            return []
        return [
            f"{len(differing)} of {len(self.md5)} files differ from the published checksums "
            f"({', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}): structure, "
            "counts and class names are right, but these are not the original pixels or labels"
        ]

    def _raise(self, root: Path, faults: list[str]) -> None:
        if faults:
            listed = "".join(f"\n  - {fault}" for fault in faults)
            raise DataError(
                f"{self.info.name} in {root} cannot be used:{listed}", hint=self._by_hand(None)
            )

    def _by_hand(self, data_dir: Path | None) -> str:
        place = str(data_dir) if data_dir is not None else "a folder"
        return (
            f"Put {self.archive.name} from any mirror (it is checked), or its folder "
            f"{self.folder}, into {place}; --data-dir names another place"
        )


def _numbers(values: object) -> NDArray[np.int64]:
    """Return labels (N,) from a list of integers or an array of them."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        return values.astype(np.int64)
    if isinstance(values, list) and all(type(value) is int for value in values):
        try:
            return np.array(values, np.int64)
        except OverflowError:
            raise ValueError("a label is larger than 64 bits hold") from None
    raise ValueError("its labels are not a list of integers")


CIFAR10 = CifarAdapter(
    info=DatasetInfo(
        name="cifar10",
        title="CIFAR-10",
        num_classes=10,
        counts={"train": 50_000, "test": 10_000},
        license="none stated; cite Krizhevsky 2009",
        source=_SITE + "cifar.html",
        access="download",
        download_mb=163,
    ),
    folder="cifar-10-batches-py",
    train_files=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test_files=("test_batch",),
    meta_file="batches.meta",
    labels_key="labels",
    names_key="label_names",
    class_names=tuple(_CIFAR10_NAMES.split()),
    md5=_CIFAR10_MD5,
    archive=_CIFAR10_ARCHIVE,
)

CIFAR100 = CifarAdapter(
    info=DatasetInfo(
        name="cifar100",
        title="CIFAR-100, fine labels",
        num_classes=100,
        counts={"train": 50_000, "test": 10_000},
        license="none stated; cite Krizhevsky 2009",
        source=_SITE + "cifar.html",
        access="download",
        download_mb=161,
    ),
    folder="cifar-100-python",
    train_files=("train",),
    test_files=("test",),
    meta_file="meta",
    labels_key="fine_labels",
    names_key="fine_label_names",
    class_names=tuple(_CIFAR100_NAMES.split()),
    md5=_CIFAR100_MD5,
    archive=_CIFAR100_ARCHIVE,
    groups=tuple(_COARSE_OF[name] for name in _CIFAR100_NAMES.split()),
)

ADAPTERS: tuple[DatasetAdapter, ...] = (CIFAR10, CIFAR100)
