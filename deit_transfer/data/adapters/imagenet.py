"""ImageNet-1k: folders of synsets, or the original tar archives read in place.

A class is a synset, named by its WordNet id and numbered in the order of these ids as text: the
order of all published weights. A flat val/ is labeled by its devkit or its solution file, never
by guessing. The true test labels are secret; the 50,000 validation images are the test split.
"""

import csv
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

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
from deit_transfer.data.readers.byte_ranges import ByteRanges
from deit_transfer.data.readers.file_listing import list_folder
from deit_transfer.data.readers.layout_checks import (
    cannot_use,
    count_faults,
    imagenet_file,
    read_mat,
)
from deit_transfer.data.readers.tar_index import TarIndex, index_tar
from deit_transfer.errors import DataError

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT_TAR = "ILSVRC2012_devkit_t12.tar.gz"
DEVKIT = "ILSVRC2012_devkit_t12"
SOLUTION = "LOC_val_solution.csv"  # Kaggle's copy
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_ROOTS = ("imagenet", "imagenet-1k", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")

_HOW = (
    f"It needs an account on image-net.org (non-commercial use). Put {TRAIN_TAR}, {VAL_TAR} and "
    f"{DEVKIT_TAR} into one folder (they are read in place, nothing is unpacked), or train/ and "
    "val/ with a folder a synset, then type: deit-transfer data check imagenet --data-dir FOLDER"
)
FLAT_HINT = (
    f"Put {DEVKIT_TAR} (2.5 MB, from image-net.org) or Kaggle's {SOLUTION} into {{root}}: the "
    "labels are read from it and no image need be moved. Then type: deit-transfer data check "
    "imagenet --data-dir {root}"
)

IMAGENET = DatasetInfo(
    name="imagenet",
    title="ImageNet-1k (ILSVRC 2012)",
    num_classes=1000,
    counts={"train": 1_281_167, "test": 50_000},
    license="non-commercial; research and education",
    source="https://image-net.org/challenges/LSVRC/2012/",
    access="by hand",
)


def synsets() -> tuple[str, ...]:
    """Return the 1,000 WordNet ids in label order, from the list that timm ships."""
    return tuple(imagenet_file("imagenet_synsets.txt").split())


@dataclass(frozen=True, kw_only=True)
class ImageNetAdapter:
    """ImageNet-1k: train and val, each from folders or from its archive.

    Args:
        info: The facts, required of the files.
        synset_names: WordNet ids in label order; the usual 1,000 when left out.
    """

    info: DatasetInfo = IMAGENET
    synset_names: tuple[str, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.synset_names if self.synset_names is not None else synsets()

    def find(self, data_dir: Path) -> Path | None:
        for folder in (data_dir, *(data_dir / name for name in _ROOTS)):
            if (folder / TRAIN_TAR).is_file() or self._has_synsets(folder / "train"):
                return folder
        return None

    def load(self, root: Path | None) -> Dataset:
        if root is None:
            raise DataError(f"{self.info.name} was not found", hint=_HOW)
        faults: list[str] = []
        if (root / TRAIN_TAR).is_file():
            train, layout = self._train_from_tar(root / TRAIN_TAR, faults), TRAIN_TAR
        else:
            train, layout = images_by_folder(root, "train", self.class_names, faults), "train/"
        found = find_val(root)
        if found is None:
            faults.append(f"there is no val/ and no {VAL_TAR}")
            raise cannot_use(self.info, root, faults, hint=_HOW)
        test = self._val(root, found, faults)
        counts: dict[Split, int] = {"train": len(train), "test": len(test)}
        flat = any("no label" in fault for fault in faults)
        short = [
            f"{fault}: unpacking was cut short"
            for fault in count_faults(self.info, counts)
            if not (flat and fault.startswith("test"))  # its images are there, without labels
        ]
        if faults or short:
            hint = FLAT_HINT.format(root=root) if flat else _HOW
            raise cannot_use(self.info, root, [*faults, *short], hint=hint)
        return Dataset(
            info=self.info,
            class_names=self.class_names,
            splits={"train": train, "test": test},
            root=root,
            layout=f"{layout} and {found.name}{'' if found.suffix else '/'}",
            notes=["test is the official validation set: the true test labels are secret"],
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        train = data_dir / "train"
        folders = list_folder(train, Counter()).folders if train.is_dir() else []
        few = sum(name in set(self.class_names) for name in folders)
        reason = f": train/ holds {few} of {len(self.class_names):,} synsets" if few else ""
        raise DataError(f"{self.info.name} was not found in {data_dir}{reason}", hint=_HOW)

    def _has_synsets(self, folder: Path) -> bool:
        """Return whether this is ImageNet, even half unpacked, rather than a subset of it."""
        if not folder.is_dir():
            return False
        found = set(list_folder(folder, Counter()).folders) & set(self.class_names)
        return 2 * len(found) > len(self.class_names)

    def _train_from_tar(self, archive: Path, faults: list[str]) -> ImageSet:
        """Read the archive of 1,000 archives, each named by its synset."""
        index = index_tar(archive, nested=True)
        numbers = {name: label for label, name in enumerate(self.class_names)}
        names = [name.partition("/")[0] for name in index.names]
        unknown = sorted(set(names) - numbers.keys())
        if unknown:
            faults.append(f"{archive.name} holds {unknown[0]}.tar, which is no synset of this set")
            return _nothing()
        labels = np.array([numbers[name] for name in names], np.int64)
        order = np.argsort(labels, kind="stable")
        return from_tar(archive, index, order, labels[order])

    def _val(self, root: Path, found: Path, faults: list[str]) -> ImageSet:
        """Read the validation images: from class folders, or flat with labels from elsewhere."""
        if found.is_dir() and list_folder(found, Counter()).folders:
            return images_by_folder(root, found.name, self.class_names, faults)
        labels = self._labels_by_name(root, faults)
        if labels is None:
            faults.append(
                f"{found.name}{'' if found.suffix else '/'} holds images but no class folders, "
                f"and no {DEVKIT_TAR} or {SOLUTION} lies beside it: no label is known"
            )
            return _nothing()
        names = val_names(found)
        unlabeled = [name for name in names if _stem(name) not in labels]
        if unlabeled:
            faults.append(f"{len(unlabeled):,} images have no label, such as {unlabeled[0]}")
            return _nothing()
        wanted = np.array([labels[_stem(name)] for name in names], np.int64)
        return val_images(root, found, names, wanted)

    def _labels_by_name(self, root: Path, faults: list[str]) -> dict[str, int] | None:
        """Return label by file stem from the devkit or Kaggle's solution; None without either."""
        numbers = {name: label for label, name in enumerate(self.class_names)}
        folders = (root, *list(root.parents)[:3])  # Kaggle's solution lies above Data/CLS-LOC
        try:
            for folder in folders:
                if (path := folder / SOLUTION).is_file():
                    return {stem: numbers[synset] for stem, synset in _read_solution(path)}
                for kit in (folder / DEVKIT_TAR, folder / DEVKIT):
                    if kit.exists():
                        answers = enumerate(_read_devkit(kit), start=1)
                        return {val_stem(place): numbers[synset] for place, synset in answers}
        except (OSError, ValueError, KeyError, tarfile.TarError, EOFError) as error:
            faults.append(f"the validation labels cannot be read: {error or type(error).__name__}")
            return {}
        return None


def find_val(root: Path) -> Path | None:
    """Return the folder or archive that holds the validation images below `root`."""
    for name in ("val", "validation", VAL_TAR):
        if (root / name).exists():
            return root / name
    return None


def val_names(found: Path) -> list[str]:
    """Return the paths of the validation images within their folder or archive, in name order."""
    if found.is_file():
        return sorted(name for name in index_tar(found).names if _is_image(name))
    listing = list_folder(found, Counter())
    inside = (
        f"{folder}/{name}"
        for folder in listing.folders
        for name in list_folder(found / folder, Counter()).images
    )
    return sorted([*listing.images, *inside], key=_stem)


def val_images(
    root: Path,
    found: Path,
    names: Sequence[str],
    labels: NDArray[np.int64],
) -> ImageSet:
    """Return the named validation images; their ids are the file names alone."""
    ids = [name.rpartition("/")[2] for name in names]
    if found.is_dir():
        return ImageSet.from_files(found, names, labels, ids=ids)
    index = index_tar(found)
    place = {name: i for i, name in enumerate(index.names)}
    chosen = np.array([place[name] for name in names], np.int64)
    return from_tar(found, index, chosen, labels, ids=ids)


def images_by_folder(
    root: Path, split: str, class_names: Sequence[str], faults: list[str]
) -> ImageSet:
    """Return the images of one folder a synset; a synset without a folder or image is a fault."""
    listing = list_folder(root / split, Counter())
    present = set(listing.folders)
    absent = [name for name in class_names if name not in present]
    if absent:
        faults.append(
            f"{split}/ lacks {len(absent):,} of {len(class_names):,} synsets, such as {absent[0]}"
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        if name in present:
            inside = list_folder(root / split / name, Counter()).images
            paths += [f"{split}/{name}/{image}" for image in inside]
            labels += [label] * len(inside)
            if not inside:
                faults.append(f"{split}/{name} holds no image")
    return ImageSet.from_files(root, paths, np.array(labels, np.int64))


def from_tar(
    archive: Path,
    index: TarIndex,
    chosen: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    ids: Sequence[str] | None = None,
) -> ImageSet:
    """Return the chosen files of an archive as images."""
    names = index.names.take(chosen)
    source = ByteRanges(
        files=[archive],
        file_of=np.zeros(len(chosen), np.int64),
        starts=index.starts[chosen],
        lengths=index.lengths[chosen],
        names=names,
    )
    return ImageSet(labels=labels, ids=names if ids is None else ids, source=source)


def val_stem(number: int) -> str:
    """Return the name, without its extension, of validation image `number`, from 1."""
    return f"ILSVRC2012_val_{number:08d}"


def _read_solution(path: Path) -> Iterator[tuple[str, str]]:
    """Yield file stem and synset: the prediction string begins with the synset."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield row["ImageId"], row["PredictionString"].split()[0]


def _read_devkit(kit: Path) -> Iterable[str]:
    """Return the synset of each validation image; the devkit numbers synsets in its own order."""
    if kit.is_dir():
        ids = (kit / _GROUND_TRUTH).read_text().split()
        meta: Path | BytesIO = kit / _META
    else:
        with tarfile.open(kit) as tar:
            ids = _member(tar, _GROUND_TRUTH).read().decode().split()
            meta = BytesIO(_member(tar, _META).read())
    records = np.atleast_1d(read_mat(meta)["synsets"])
    by_id = {
        int(number): str(synset)
        for number, synset in zip(records["ILSVRC2012_ID"], records["WNID"], strict=True)
    }
    return [by_id[int(number)] for number in ids]


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    for member in tar.getmembers():
        if member.name.endswith(name) and (file := tar.extractfile(member)) is not None:
            return file
    raise ValueError(f"{DEVKIT_TAR} holds no {name}")


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in ("jpeg", "jpg", "png")


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _nothing() -> ImageSet:
    return ImageSet.from_arrays(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int64))


ADAPTERS: tuple[DatasetAdapter, ...] = (ImageNetAdapter(),)
