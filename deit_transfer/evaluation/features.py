"""Frozen features: what a network computes before its head, computed once and cached.

A kept feature is named by what decides it: the network's weights without its heads, how an image
is shown to it, and the content of the image. Splits, limits and file names do not enter, so that
every part of a dataset shares one store, and an image whose content changed is computed again.

    NETWORK.npz         the features of all images that this network has seen in this way
    NETWORK.lock        held while the file is read, added to and replaced

Shapes: B images of a batch, N images, E embeddings, D dimensions.
"""

import contextlib
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import Module

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.fetch.cache import user_cache
from deit_transfer.data.fingerprint import content_digests
from deit_transfer.data.pipeline.loader import eval_batches
from deit_transfer.data.pipeline.transforms import eval_transform
from deit_transfer.engine.distributed import World
from deit_transfer.engine.precision import Precision
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import CheckpointError, DataError
from deit_transfer.models.classifier import Classifier, head_names, is_head_key
from deit_transfer.recipe.schema import Recipe
from deit_transfer.training import build

# to be raised whenever the same description would mean other features
FORMAT = 3
# class tokens of so many last blocks, as DINO's linear probe of small networks reads them
# (Caron et al. 2021, arXiv 2104.14294, appendix F.2)
LAST_BLOCKS = 4
DIGEST_BYTES = 16
# a kill that cannot be caught costs no more than this
KEEP_EVERY_S = 300.0
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Features:
    """The embeddings of N images, and the seconds they took.

    `values` (N, E, D) float32; rows of an image that could not be read are not numbers. `named`
    says which of the E embeddings, side by side, each probe reads. `computed` images were shown to
    the network now, in `seconds`; `kept_seconds` is what the others had taken when they were.
    """

    values: NDArray[np.float32]
    named: dict[str, tuple[int, ...]]
    computed: int
    seconds: float
    kept_seconds: float


def features_folder() -> Path:
    """Return where features are kept unless another folder is named."""
    return user_cache() / "features"


def extract_features(
    classifier: Classifier,
    images: ImageSet,
    *,
    recipe: Recipe,
    device: torch.device,
    precision: Precision,
    folder: Path,
    stop: StopSignals | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return the features of images: those that are kept, and the others computed and kept.

    Args:
        classifier: On `device`; put into evaluation mode.
        images: Of any splits, in any order.
        recipe: Says how an evaluation image is cropped, and how images are loaded.
        device: Where the network is.
        precision: Of the forward passes; features are float32.
        folder: Keeps the features.
        stop: Looked at before each batch; what is computed by then is kept.
        progress: Called with the images computed so far and those to compute.

    Raises:
        StoppedError: A signal arrived.
        DataError: An image cannot be read, and `data.allow_bad` does not allow it.
        CheckpointError: The network answers with values that are not numbers.
    """
    began = time.monotonic()
    classifier.eval()
    store = _Store(folder, describe_view(classifier, images, recipe=recipe, precision=precision))
    digests = _content_digests(images, stop)
    known = store.read()
    place = {digest: row for row, digest in enumerate(known.digests)}
    rows = np.array([place.get(digest, -1) for digest in digests], dtype=np.int64)  # (N,)
    missing = np.flatnonzero(rows < 0)
    fresh: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    with _keeping(store) as keep:
        for places, found in _compute(
            classifier,
            images.subset(missing),
            recipe=recipe,
            device=device,
            precision=precision,
            stop=stop,
            progress=progress,
        ):
            indices = missing[places]
            fresh.append((indices, found))
            keep([digests[index] for index in indices], found)
    kept = rows >= 0
    shape = fresh[0][1].shape[1:] if fresh else known.values.shape[1:]
    values = np.full((len(images), *shape), np.nan, dtype=np.float32)  # (N, E, D)
    if kept.any():
        values[kept] = known.values[rows[kept]]
    for indices, found in fresh:
        values[indices] = found
    if values.shape[-1] == 0:
        raise DataError("none of the images can be read", hint="deit-transfer data check DATASET")
    return Features(
        values=values,
        named=named_embeddings(classifier),
        computed=len(missing),
        seconds=time.monotonic() - began,
        kept_seconds=float(known.seconds[rows[kept]].sum()),
    )


def named_embeddings(classifier: Classifier) -> dict[str, tuple[int, ...]]:
    """Return what a probe reads, by name: the embeddings of `embeddings` that it sets side by side.

    Both tokens of a distilled network alone and together; the class token of any other vision
    transformer after the last block and after the last few; else what the head reads.
    """
    if classifier.distilled:
        return {"class": (0,), "distill": (1,), "both": (0, 1)}
    if _has_one_token(classifier.backbone):
        count = _last_blocks(classifier.backbone)
        return {"class": (count - 1,), f"last {count} blocks": tuple(range(count))}
    return {"head input": (0,)}


def embeddings(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the embeddings (B, E, D) of images: final tokens, or the pooled features.

    Of a plain vision transformer they are the class token after each of its last blocks, under
    the final norm; the last of them is what its head reads.

    Args:
        classifier: Any network.
        images: (B, 3, H, W), normalized.
    """
    if classifier.distilled:
        return classifier.forward_tokens(images)  # (B, 2, D)
    backbone: Any = classifier.backbone
    if _has_one_token(backbone):
        blocks = backbone.forward_intermediates(
            images,
            indices=_last_blocks(backbone),
            norm=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
        )
        return torch.stack([tokens[:, 0] for _patches, tokens in blocks], dim=1)  # (B, E, D)
    pooled = backbone.forward_head(backbone.forward_features(images), pre_logits=True)  # (B, D)
    return pooled.flatten(1)[:, None]  # (B, 1, D)


def _has_one_token(backbone: Any) -> bool:
    """Return whether a network's head reads one class token."""
    return (
        isinstance(backbone, VisionTransformer)
        and backbone.global_pool == "token"
        and backbone.num_prefix_tokens == 1
    )


def _last_blocks(backbone: Any) -> int:
    return min(LAST_BLOCKS, len(backbone.blocks))


def describe_view(
    classifier: Classifier, images: ImageSet, *, recipe: Recipe, precision: Precision
) -> dict[str, Any]:
    """Return everything besides an image's content that decides its features, as plain values."""
    return {
        "format": FORMAT,
        "model": classifier.name,
        "weights": backbone_digest(classifier.backbone),
        "resolution": classifier.resolution,
        "crop": build.evaluation_crop(recipe),
        "upright": images.apply_exif,
        "gray_white": images.gray_white,
        "colors": [list(classifier.mean), list(classifier.std)],
        "precision": precision.name,
    }


def backbone_digest(backbone: Module) -> str:
    """Return 64 hexadecimal digits that name a network's tensors, those of its heads left out."""
    heads = head_names(backbone)
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        if not is_head_key(name, heads):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _compute(
    classifier: Classifier,
    images: ImageSet,
    *,
    recipe: Recipe,
    device: torch.device,
    precision: Precision,
    stop: StopSignals | None,
    progress: Progress | None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (places (B,), features (B, E, D)) of every image that can be read."""
    if len(images) == 0:
        return
    batches = eval_batches(
        images,
        transform=eval_transform(
            resolution=classifier.resolution, crop_pct=build.evaluation_crop(recipe)
        ),
        batch_size=recipe.run.eval_batch_size,
        workers=build.num_workers(recipe, World()),
        allow_bad=recipe.data.allow_bad,
        decode_cache_mb=0,  # each image is shown once
        pin_memory=device.type == "cuda",
    )
    normalize = build.normalization(classifier)
    done = 0
    for batch in batches:
        if stop is not None:
            stop.check()
        shown = normalize(batch.images.to(device, non_blocking=True))  # (B, 3, H, W)
        with precision.autocast():
            found = embeddings(classifier, shown).float().cpu().numpy()  # (B, E, D)
        indices = batch.indices.numpy()
        readable = ~np.isin(indices, [bad.index for bad in batches.bad])
        _check_finite(found[readable], classifier, precision)
        yield indices[readable], found[readable]
        done += len(indices)
        if progress is not None:
            progress(done, len(images))


@contextlib.contextmanager
def _keeping(store: "_Store") -> Iterator[Callable[[Sequence[bytes], NDArray[np.float32]], None]]:
    """Return a function that stores rows of features now and then, and at the end."""
    waiting: dict[bytes, NDArray[np.float32]] = {}
    since = time.monotonic()

    def flush() -> None:
        nonlocal since
        store.add(waiting, (time.monotonic() - since) / max(1, len(waiting)))
        waiting.clear()
        since = time.monotonic()

    def keep(digests: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        waiting.update(zip(digests, rows, strict=True))
        if time.monotonic() - since > KEEP_EVERY_S:
            flush()

    try:
        yield keep
    finally:
        flush()


def _check_finite(found: NDArray[np.float32], classifier: Classifier, precision: Precision) -> None:
    if not np.isfinite(found).all():
        raise CheckpointError(
            f"{classifier.name} produced NaN or Inf in {precision.name}",
            hint="Use --precision fp32, which has the widest range; weights of a diverged run have "
            "no remedy"
            if precision.name == "fp16"
            else "Its weights are those of a run that diverged, or not its own",
        )


def _content_digests(images: ImageSet, stop: StopSignals | None) -> list[bytes]:
    """Return what names the content of each image (N,); of one that is gone, a name of its own."""
    digests = content_digests(images, tick=stop.check if stop is not None else None)
    # never stored: computing it says what is wrong with it
    return [digest or f"unreadable {place}".encode() for place, digest in enumerate(digests)]


@dataclass(frozen=True, kw_only=True)
class _CachedRows:
    """The rows of a feature cache: M digests, values (M, E, D), and the seconds (M,) each took."""

    digests: Sequence[bytes]
    values: NDArray[np.float32]
    seconds: NDArray[np.float32]


NOTHING = _CachedRows(
    digests=(),
    values=np.empty((0, 1, 0), dtype=np.float32),
    seconds=np.empty(0, dtype=np.float32),
)


class _Store:
    """The feature cache of one network and view."""

    def __init__(self, folder: Path, view: dict[str, Any]) -> None:
        self._view = json.dumps(view, sort_keys=True)
        name = hashlib.sha256(self._view.encode()).hexdigest()[:32]
        self._path = folder / f"{name}.npz"
        self._lock = folder / f"{name}.lock"

    def read(self) -> _CachedRows:
        """Return what is kept; nothing where there is no file, or a damaged or foreign one."""
        try:
            # opened here: np.load leaves a damaged file open
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                if str(stored["view"]) != self._view:
                    return NOTHING
                kept = _CachedRows(
                    digests=[row.tobytes() for row in stored["digests"]],
                    values=stored["values"],
                    seconds=stored["seconds"],
                )
        except DAMAGED:
            return NOTHING
        sizes = {len(kept.digests), len(kept.values), len(kept.seconds)}
        return kept if len(sizes) == 1 else NOTHING

    def add(self, rows: Mapping[bytes, NDArray[np.float32]], seconds_each: float) -> None:
        """Keep more rows beside those that are there by now; a full disk only costs the keeping."""
        if not rows:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock):
                # read again: another process may have added its own meanwhile
                there = self.read()
                new = rows.keys() - set(there.digests)
                if new:
                    self._replace(there, {digest: rows[digest] for digest in new}, seconds_each)

    def _replace(
        self, there: _CachedRows, new: Mapping[bytes, NDArray[np.float32]], seconds_each: float
    ) -> None:
        values = np.stack(list(new.values()))  # (M, E, D)
        seconds = np.full(len(new), seconds_each, dtype=np.float32)
        digests = np.frombuffer(b"".join([*there.digests, *new]), dtype=np.uint8)
        # one at a time, by the lock; what a killed process left behind is written over
        temporary = self._path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    view=np.array(self._view),
                    digests=digests.reshape(-1, DIGEST_BYTES),
                    values=np.concatenate([there.values, values]) if there.digests else values,
                    seconds=np.concatenate([there.seconds, seconds]),
                )
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
