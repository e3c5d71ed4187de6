"""The predictions that a run stores: write, read, and join those of several runs.

Shapes: N images, K classes. Images are known by their ids, never by their place.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from deit_transfer.batch import HeadLogits
from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.fingerprint import content_digests
from deit_transfer.engine.inference import Predictions
from deit_transfer.engine.losses import late_fusion
from deit_transfer.errors import DataError

UNDECIDED = -1
UNKNOWN_CONTENT = 0


@dataclass(frozen=True, kw_only=True)
class StoredPredictions:
    """Logits on N images, with image ids and labels.

    `ids` (N,) are the images' names, each once; `labels` (N,) int64; the logits (N, K) float32.
    An image that could not be read has logits that are not numbers. `contents` (N,) uint64 tells
    images of one name apart; UNKNOWN_CONTENT where an image was gone, None in files without it.
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    class_logits: NDArray[np.float32]
    distill_logits: NDArray[np.float32] | None
    contents: NDArray[np.uint64] | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """Name the classifiers that the network holds: one, or class, distill and joint."""
        return ("joint",) if self.distill_logits is None else ("class", "distill", "joint")

    def probabilities(self, head: str = "joint") -> NDArray[np.float32]:
        """Return the probabilities (N, K) of one head; `joint` is late fusion (section 4)."""
        class_logits = torch.from_numpy(self.class_logits)
        if head == "joint":
            distill = None if self.distill_logits is None else torch.from_numpy(self.distill_logits)
            return late_fusion(HeadLogits(class_logits, distill)).numpy()
        if head == "class":
            return late_fusion(HeadLogits(class_logits, None)).numpy()
        if head == "distill" and self.distill_logits is not None:
            return late_fusion(HeadLogits(torch.from_numpy(self.distill_logits), None)).numpy()
        raise ValueError(f"there is no head {head!r}: this network has {', '.join(self.heads)}")

    def decisions(self, head: str = "joint") -> NDArray[np.int64]:
        """Return the likeliest class of each image (N,), UNDECIDED where it could not be read."""
        probabilities = self.probabilities(head)
        readable = np.isfinite(probabilities).all(axis=1)
        return np.where(readable, probabilities.argmax(axis=1), UNDECIDED)

    def take(self, ids: Sequence[str]) -> "StoredPredictions":
        """Return the answers on these images, in this order; every id must be there."""
        place = {name: number for number, name in enumerate(self.ids.tolist())}
        order = np.array([place[name] for name in ids], dtype=np.int64)
        distill = self.distill_logits
        return replace(
            self,
            ids=self.ids[order],
            labels=self.labels[order],
            class_logits=self.class_logits[order],
            distill_logits=None if distill is None else distill[order],
            contents=None if self.contents is None else self.contents[order],
        )


def image_contents(images: ImageSet) -> NDArray[np.uint64]:
    """Return a number for the content of each image (N,), UNKNOWN_CONTENT for one that is gone."""
    short = [(digest or bytes(8))[:8] for digest in content_digests(images)]
    return np.frombuffer(b"".join(short), dtype="<u8").astype(np.uint64)


def predictions_to_store(predictions: Predictions, images: ImageSet) -> StoredPredictions:
    """Name the images of fresh predictions, and what is in them."""
    distill = predictions.distill_logits
    return StoredPredictions(
        contents=image_contents(images)[predictions.indices.numpy()],
        ids=np.array([images.ids[index] for index in predictions.indices.tolist()]),
        labels=predictions.labels.numpy(),
        class_logits=predictions.class_logits.numpy(),
        distill_logits=None if distill is None else distill.numpy(),
    )


def write_predictions(path: Path, stored: StoredPredictions) -> None:
    """Write predictions, whole or not at all."""
    arrays: dict[str, Any] = {
        "ids": stored.ids,
        "labels": stored.labels,
        "class_logits": stored.class_logits,
    }
    if stored.distill_logits is not None:
        arrays["distill_logits"] = stored.distill_logits
    if stored.contents is not None:
        arrays["contents"] = stored.contents
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def read_predictions(path: Path) -> StoredPredictions:
    """Read what `write_predictions` wrote.

    Raises:
        DataError: There is no such file, or it is damaged.
    """
    if not path.is_file():
        raise DataError(f"there are no predictions in {path}", hint="Score the run again")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return StoredPredictions(
                ids=stored["ids"],
                labels=stored["labels"],
                class_logits=stored["class_logits"],
                distill_logits=stored.get("distill_logits"),
                contents=stored.get("contents"),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"the predictions in {path} cannot be read: {error}", hint="Score the run again"
        ) from error


def join_predictions(
    named: Sequence[tuple[str, StoredPredictions]],
) -> list[StoredPredictions]:
    """Return the answers on the images that all have, in one order.

    Args:
        named: Each network's name and answers, at least one.

    Raises:
        DataError: Two networks share no image, or give one image different labels, or mean
            different images by one name.
    """
    first_name, first = named[0]
    shared = set(first.ids.tolist())
    for name, stored in named[1:]:
        shared &= set(stored.ids.tolist())
        if not shared:
            raise DataError(
                f"{first_name} and {name} were scored on different images",
                hint="Give runs of one dataset, or name a dataset to score all of them on",
            )
    ids = [name for name in first.ids.tolist() if name in shared]
    joined = [stored.take(ids) for _, stored in named]
    for (name, _), stored in zip(named[1:], joined[1:], strict=True):
        if other := other_contents(joined[0], stored):
            raise DataError(
                f"{first_name} and {name} were scored on different images: {len(other):,} have the "
                f"same names but not the same content, such as {other[0]}",
                hint="Score all on one dataset: deit-transfer disagree RUN RUN --on DATASET",
            )
        differing = np.flatnonzero(stored.labels != joined[0].labels)
        if len(differing):
            raise DataError(
                f"{first_name} and {name} label {len(differing):,} images differently, such as "
                f"{ids[differing[0]]}",
                hint="Their classes are other ones or in another order; compare runs of one "
                "dataset",
            )
    return joined


def other_contents(first: StoredPredictions, second: StoredPredictions) -> list[str]:
    """Return the ids whose images differ; both hold the same ids in the same order."""
    if first.contents is None or second.contents is None:
        return []
    known = (first.contents != UNKNOWN_CONTENT) & (second.contents != UNKNOWN_CONTENT)
    return first.ids[known & (first.contents != second.contents)].tolist()
