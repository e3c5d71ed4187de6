"""Test sets for ImageNet classifiers: ImageNet-V2 and ImageNet-ReaL.

Both only score. V2's class folders are numbers and are read by value: as text, 10 comes before 2,
and nearly every label is wrong. ReaL gives the validation images of ImageNet new labels, several
where several things are in the picture, joined by file name and never by place.
"""

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from deit_transfer.data.adapters.imagenet import (
    VAL_TAR,
    find_val,
    images_by_folder,
    synsets,
    val_images,
    val_names,
    val_stem,
)
from deit_transfer.data.dataset import (
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    ImageSet,
    LabelSets,
    Progress,
)
from deit_transfer.data.fetch.download import extract_tar
from deit_transfer.data.fetch.hub import fetch_file
from deit_transfer.data.readers.file_listing import list_folder
from deit_transfer.data.readers.layout_checks import cannot_use, count_faults, imagenet_file
from deit_transfer.errors import DataError

_V2_REPOSITORY = "vaishaal/ImageNetV2"
_MAX_UNPACKED_BYTES = 4_000_000_000  # a variant unpacks to about 1.3 GB


@dataclass(frozen=True, kw_only=True)
class ImageNetV2Adapter:
    """One of the three variants of ImageNet-V2.

    Args:
        info: The facts, required of the files.
        variant: Its name in files and folders.
        synset_names: WordNet ids in label order; the usual 1,000 when left out.
    """

    info: DatasetInfo
    variant: str
    synset_names: tuple[str, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.synset_names if self.synset_names is not None else synsets()

    @property
    def _archive(self) -> str:
        return f"imagenetv2-{self.variant}.tar.gz"

    @property
    def _folder(self) -> str:
        return f"imagenetv2-{self.variant}-format-val"

    def find(self, data_dir: Path) -> Path | None:
        short = f"imagenetv2-{self.variant}"
        for folder in (data_dir, data_dir / self._folder, data_dir / short):
            if folder.name in (self._folder, short) and folder.is_dir():
                return folder
        return None

    def load(self, root: Path | None) -> Dataset:
        if root is None:
            raise DataError(f"{self.info.name} was not found", hint=self._by_hand(None))
        folders = list_folder(root, Counter()).folders
        numeric = bool(folders) and all(name.isascii() and name.isdecimal() for name in folders)
        names, note = self.class_names, "class folders are WordNet ids"
        if numeric:
            first = min(map(int, folders))
            names = tuple(str(first + label) for label in range(len(self.class_names)))
            note = f"class folders are numbers, read by value: {first} is label 0"
        faults: list[str] = []
        images = images_by_folder(root.parent, root.name, names, faults)
        faults += count_faults(self.info, {"test": len(images)})
        if faults:
            raise cannot_use(self.info, root, faults, hint=self._by_hand(root.parent))
        ids = [name.partition("/")[2] for name in images.ids]
        return Dataset(
            info=self.info,
            class_names=self.class_names,
            splits={
                "test": ImageSet(labels=images.labels, ids=ids, source=images.source),
            },
            root=root,
            layout="one folder a class",
            notes=[note],
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        """Unpack the archive, fetched from the hub unless it lies there already."""
        if found := self.find(data_dir):
            return found
        by_hand = self._by_hand(data_dir)
        archive = data_dir / self._archive
        if not archive.is_file():
            archive = fetch_file(_V2_REPOSITORY, self._archive, by_hand=by_hand)
        return extract_tar(
            archive,
            data_dir / self._folder,
            member=self._folder,
            max_bytes=_MAX_UNPACKED_BYTES,
            progress=progress,
            by_hand=by_hand,
        )

    def _by_hand(self, data_dir: Path | None) -> str:
        place = data_dir if data_dir is not None else "FOLDER"
        return (
            f"Put {self._archive} from huggingface.co/datasets/{_V2_REPOSITORY} into {place}, then "
            f"type: deit-transfer data prepare {self.info.name} --data-dir {place}"
        )


@dataclass(frozen=True, kw_only=True)
class ImageNetReaLAdapter:
    """ImageNet's validation images with the labels of Beyer et al. 2020.

    Args:
        info: The facts, required of the files.
        num_images: Validation images there should be, labeled or not.
        synset_names: WordNet ids in label order; the usual 1,000 when left out.
        answers: The right labels of each validation image, by its number; timm's copy of the
            authors' real.json when left out.
    """

    info: DatasetInfo
    num_images: int = 50_000
    synset_names: tuple[str, ...] | None = None
    answers: tuple[tuple[int, ...], ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.synset_names if self.synset_names is not None else synsets()

    def find(self, data_dir: Path) -> Path | None:
        for folder in (data_dir, data_dir / "imagenet", data_dir / "ILSVRC/Data/CLS-LOC"):
            found = find_val(folder)
            if found is not None and (found.is_file() or self._is_whole(found)):
                return folder
        return None

    def load(self, root: Path | None) -> Dataset:
        found = find_val(root) if root is not None else None
        if root is None or found is None:
            raise DataError(f"{self.info.name} was not found", hint=_REAL_HOW)
        by_stem = {val_stem(i): answers for i, answers in enumerate(self._answers(), start=1)}
        names = val_names(found)
        stems = [name.rpartition("/")[2].rpartition(".")[0] for name in names]
        faults = []
        unknown = [stem for stem in stems if stem not in by_stem]
        if unknown:
            faults.append(f"{len(unknown):,} files are no validation images, such as {unknown[0]}")
        elif len(names) != self.num_images:
            faults.append(f"{len(names):,} validation images, expected {self.num_images:,}")
        if faults:
            raise cannot_use(self.info, root, faults, hint=_REAL_HOW)
        scored = [i for i, stem in enumerate(stems) if by_stem[stem]]
        sets = LabelSets(by_stem[stems[i]] for i in scored)
        first = np.array([by_stem[stems[i]][0] for i in scored], np.int64)
        images = val_images(root, found, [names[i] for i in scored], first)
        left_out = len(names) - len(scored)
        return Dataset(
            info=replace(self.info, counts={"test": len(scored)}),
            class_names=self.class_names,
            splits={
                "test": ImageSet(
                    labels=first,
                    ids=images.ids,
                    source=images.source,
                    label_sets=sets,
                ),
            },
            root=root,
            layout=f"{found.name}{'' if found.suffix else '/'} of ImageNet, joined by file name",
            notes=[
                f"{left_out:,} of {len(names):,} images have no label in ReaL and are left out",
                "a prediction is correct when it is any of an image's labels",
            ],
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        raise DataError(f"{self.info.name} was not found in {data_dir}", hint=_REAL_HOW)

    def _is_whole(self, val: Path) -> bool:
        """Return whether this is ImageNet's whole validation folder, flat or not."""
        listing = list_folder(val, Counter())
        folders = set(listing.folders) & set(self.class_names)
        return 2 * len(folders) > len(self.class_names) or 2 * len(listing.images) > self.num_images

    def _answers(self) -> tuple[tuple[int, ...], ...]:
        if self.answers is not None:
            return self.answers
        return tuple(map(tuple, json.loads(imagenet_file("imagenet_real_labels.json"))))


_REAL_HOW = (
    "It is ImageNet's validation images under other labels, which are built in. Put val/ or "
    f"{VAL_TAR} into one folder, then type: deit-transfer data check imagenet-real --data-dir "
    "FOLDER"
)


_v2_info = partial(
    DatasetInfo,
    num_classes=1000,
    counts={"test": 10_000},
    license="MIT (labels); images from Flickr, research use",
    source="Recht et al. 2019; https://github.com/modestyachts/ImageNetV2",
    access="download",
    download_mb=1260,
)

V2_MATCHED = ImageNetV2Adapter(
    info=_v2_info(name="imagenet-v2", title="ImageNet-V2, matched frequency"),
    variant="matched-frequency",
)
V2_THRESHOLD = ImageNetV2Adapter(
    info=_v2_info(name="imagenet-v2-threshold", title="ImageNet-V2, threshold 0.7"),
    variant="threshold0.7",
)
V2_TOP = ImageNetV2Adapter(
    info=_v2_info(name="imagenet-v2-top", title="ImageNet-V2, top images"),
    variant="top-images",
)
REAL = ImageNetReaLAdapter(
    info=DatasetInfo(
        name="imagenet-real",
        title="ImageNet-ReaL (reassessed labels)",
        num_classes=1000,
        counts={"test": 46_837},
        license="Apache-2.0 (labels); images as ImageNet's",
        source="Beyer et al. 2020; https://github.com/google-research/reassessed-imagenet",
        access="by hand",
    )
)

ADAPTERS: tuple[DatasetAdapter, ...] = (V2_MATCHED, V2_THRESHOLD, V2_TOP, REAL)
