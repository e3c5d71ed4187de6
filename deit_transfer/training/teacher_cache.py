"""Cache the teacher's logits on disk, so that later runs of the same augmentation need no teacher.

An image's logits are stored by (epoch, index, repetition): with the same augmentation seed, data,
batches and teacher, the teacher would see the same mixed image and return the same logits. The
first run stores, later ones look up; both use the stored form, so their results are equal.

    cache.json          the settings that the logits belong to; others are refused
    epoch-00003.npy     one record per (index, repetition)
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from deit_transfer.batch import Batch
from deit_transfer.errors import CheckpointError
from deit_transfer.files import write_text_atomic
from deit_transfer.models.classifier import Classifier
from deit_transfer.recipe.schema import Recipe

DESCRIPTION_FILE = "cache.json"
# a decided class gets this logit against zeros: its softmax is 1 to rounding
SURE_LOGIT = 100.0


class TeacherCache:
    """Return stored logits where there are any, else run the teacher and store them.

    Args:
        folder: Holds the logits; created if need be.
        description: What they belong to, as plain values.
        teacher: The teacher: images (B, 3, H, W) to logits (B, K).
        num_images: Of the training split.
        repeats: Views of an image in an epoch.
        num_classes: K.
        top_k: Logits kept; None keeps the decision only (hard distillation).

    Raises:
        CheckpointError: The folder was built with different settings.
    """

    def __init__(
        self,
        folder: Path,
        *,
        description: dict[str, Any],
        teacher: Callable[[Tensor], Tensor],
        num_images: int,
        repeats: int,
        num_classes: int,
        top_k: int | None,
    ) -> None:
        self._folder = folder
        self._teacher = teacher
        self._shape = (num_images, repeats)
        self._num_classes = num_classes
        self._top_k = None if top_k is None else min(top_k, num_classes)
        self._open: dict[int, NDArray[Any]] = {}
        self.found = self.computed = 0
        _check_settings(folder, description)

    def __call__(self, images: Tensor, batch: Batch) -> Tensor:
        """Return the teacher's logits (B, K) in the stored form."""
        records = self._records(batch.epoch)
        place = (batch.indices.cpu().numpy(), batch.repetitions.cpu().numpy())
        known = records[place]["known"]
        if not known.all():
            # the whole batch at once: every image in it is mixed with another
            records[place] = self._encode(self._teacher(images))
            self.computed += len(known)
        else:
            self.found += len(known)
        return self._decode(records[place]).to(images.device)  # (B, K)

    def _records(self, epoch: int) -> NDArray[Any]:
        """Return the records (N, R) of an epoch, kept open while it lasts."""
        if epoch not in self._open:
            path = self._folder / f"epoch-{epoch:05d}.npy"
            if not path.exists():
                self._create(path)
            self._open = {epoch: open_memmap(path, mode="r+")}
        return self._open[epoch]

    def _create(self, path: Path) -> None:
        """Make an epoch's empty file; of several processes, one makes it and all use it."""
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.npy")
        open_memmap(temporary, mode="w+", dtype=self._dtype(), shape=self._shape).flush()
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()

    def _dtype(self) -> np.dtype[Any]:
        if self._top_k is None:
            return np.dtype([("known", "?"), ("label", "<i4")])
        size = (self._top_k,)
        fields = [
            ("known", "?"),
            ("classes", "<i4", size),
            ("logits", "<f2", size),
            ("rest", "<f2"),
        ]
        return np.dtype(fields)

    def _encode(self, logits: Tensor) -> NDArray[Any]:
        """Return records (B,) of logits (B, K): the decision, or the top ones and the rest."""
        records = np.zeros(len(logits), self._dtype())
        records["known"] = True
        if self._top_k is None:
            records["label"] = logits.argmax(dim=-1).cpu().numpy()
            return records
        # only differences matter, and half precision is finest near zero
        shifted = logits.float() - logits.float().amax(dim=-1, keepdim=True)
        values, classes = shifted.topk(self._top_k, dim=-1)  # (B, k)
        records["classes"], records["logits"] = classes.cpu().numpy(), values.cpu().numpy()
        num_rest = self._num_classes - self._top_k
        if num_rest:
            others = shifted.scatter(1, classes, -torch.inf)  # (B, K)
            mean = others.logsumexp(dim=-1) - torch.log(torch.tensor(float(num_rest)))
            records["rest"] = mean.clamp_min(-60000.0).cpu().numpy()
        return records

    def _decode(self, records: NDArray[Any]) -> Tensor:
        """Return logits (B, K); classes that were not kept share what probability they had."""
        if self._top_k is None:
            logits = torch.zeros(len(records), self._num_classes)
            labels = torch.from_numpy(records["label"].astype(np.int64))
            return logits.scatter(1, labels[:, None], SURE_LOGIT)  # (B, K)
        rest = torch.from_numpy(records["rest"].astype(np.float32))
        logits = rest[:, None].repeat(1, self._num_classes)  # (B, K)
        classes = torch.from_numpy(records["classes"].astype(np.int64))
        return logits.scatter(1, classes, torch.from_numpy(records["logits"].astype(np.float32)))


def describe_teacher_inputs(
    recipe: Recipe,
    *,
    data_fingerprint: str,
    augment_seed: int,
    teacher: Classifier,
    student: Classifier,
    micro_batch_size: int,
    epochs: int,
) -> dict[str, Any]:
    """Return all settings that decide the teacher's inputs and logits, as plain values."""
    schedule = recipe.schedule
    return {
        "teacher": _digest(teacher),
        "kind": recipe.distill.kind,
        "top_k": recipe.distill.cache_top_k if recipe.distill.kind == "soft" else None,
        "data": data_fingerprint,
        "augment": recipe.augment.model_dump(mode="json", exclude={"seed"}),
        "augment_seed": augment_seed,
        "batch_size": schedule.batch_size,
        "micro_batch_size": micro_batch_size,
        "resolution": student.resolution,
        "colors": [list(student.mean), list(student.std)],
        "progressive": [list(stage) for stage in schedule.progressive],
        "epochs": epochs if schedule.progressive else None,
        "compat": recipe.compat,
    }


def _check_settings(folder: Path, description: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DESCRIPTION_FILE
    if not path.exists():
        write_text_atomic(path, json.dumps(description, indent=2) + "\n")
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    keys = sorted(stored.keys() | description.keys())
    different = [key for key in keys if stored.get(key) != description.get(key)]
    if different:
        raise CheckpointError(
            f"the teacher cache {folder} was built with different settings: {', '.join(different)}",
            hint="Give this run its own folder with --teacher-cache, or set augment.seed to that "
            f"of the cache ({stored.get('augment_seed')}) if only the seed differs",
        )


def _digest(teacher: Classifier) -> str:
    digest = hashlib.sha256(teacher.name.encode())
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
