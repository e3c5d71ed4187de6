"""scikit-learn's embedded handwritten digits: the dataset that needs no download."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deit_transfer.data.dataset import (
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    ImageSet,
    Progress,
    Split,
)
from deit_transfer.data.splits import carve_val
from deit_transfer.errors import DataError

# The set has no official split. This one is ours and fixed for good: one image in five of each
# class is test, chosen by this seed, so that figures of all versions can be compared.
_TEST_FRACTION = 0.2
_SPLIT_SEED = 0

_BRIGHTEST = 16  # the pixels count the ink in 4 x 4 blocks: 0..16

DIGITS = DatasetInfo(
    name="digits",
    title="Handwritten digits, 8 x 8 pixels (embedded)",
    num_classes=10,
    counts={"train": 1438, "test": 359},
    license="CC BY 4.0",
    source="Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits (test part), "
    "as scikit-learn's load_digits; train and test split: deit-transfer",
    access="embedded",
)


@dataclass(frozen=True, kw_only=True)
class DigitsAdapter:
    """scikit-learn's digits, scaled to 0..255 and repeated over three channels."""

    info: DatasetInfo = DIGITS

    def find(self, data_dir: Path) -> Path | None:
        return None

    def load(self, root: Path | None) -> Dataset:
        from sklearn.datasets import load_digits

        raw = load_digits()
        gray = np.rint(raw.images * (255 / _BRIGHTEST)).astype(np.uint8)  # (N, 8, 8)
        pixels = np.repeat(gray[..., None], 3, axis=3)  # (N, 8, 8, 3)
        everything = ImageSet.from_arrays(pixels, raw.target.astype(np.int64), name="digits")
        train, test = carve_val(everything.labels, fraction=_TEST_FRACTION, seed=_SPLIT_SEED)
        splits: dict[Split, ImageSet] = {
            "train": everything.subset(train),
            "test": everything.subset(test),
        }
        counts = {split: len(images) for split, images in splits.items()}
        if counts != self.info.counts:
            raise DataError(
                f"scikit-learn's digits hold {counts}, expected {self.info.counts}",
                hint="Install another scikit-learn: pip install 'scikit-learn>=1.4'",
            )
        return Dataset(
            info=self.info,
            class_names=tuple(str(digit) for digit in range(10)),
            splits=splits,
            layout="embedded in scikit-learn",
        )

    def download(self, data_dir: Path, *, progress: Progress | None = None) -> Path:
        return data_dir  # nothing to fetch


ADAPTERS: tuple[DatasetAdapter, ...] = (DigitsAdapter(),)
