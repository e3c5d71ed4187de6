"""Measure what the class and distillation tokens have learned: similarities and attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deit_transfer.analysis.similarity import (
    cosine,
    describe_cosines,
    describe_positions,
    map_overlap,
    position_similarity,
)
from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.dataset import ImageSet, Progress
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError, UsageError
from deit_transfer.evaluation.predictor import Predictor, open_predictor, predictor_at
from deit_transfer.models.attention import (
    attention_by_layer,
    rollout,
    token_backbone,
    token_maps,
)
from deit_transfer.models.classifier import Classifier
from deit_transfer.report.tokens import (
    AttentionImage,
    attention_png,
    cosines_png,
    positions_png,
)
from deit_transfer.training import build
from deit_transfer.training.data_splits import display_name, load_splits

# Touvron et al., ICML 2021 (arXiv 2012.12877), the paragraphs on the distillation token: "the
# learned class and distillation tokens" 0.06, their embeddings at "the last layer" 0.93, the
# control with two class tokens 0.999; whether with position embeddings is not said
PAPER = {"token_cosine": 0.06, "last_layer": 0.93, "two_class_tokens": 0.999}

SAMPLE_SEED = 0
MOST_MAPS = 6  # images whose attention is drawn


@dataclass(frozen=True, kw_only=True)
class TokenMeasurements:
    """Measurements on N images; the first M of them have attention maps.

    `layers` (L + 1, N) and `final` (N,) are cosines between the two tokens, None where there is
    one; `pixels` (R, R, 3) and `maps` by kind (M, T, h, w) belong to the first images.
    """

    layers: NDArray[np.float64] | None
    final: NDArray[np.float64] | None
    pixels: list[NDArray[np.uint8]]
    maps: dict[str, NDArray[np.float32]]


def tokens(
    text: str,
    *,
    files: Sequence[Path] = (),
    dataset_name: str | None = None,
    num_images: int = 200,
    out: Path,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a network's tokens, positions and attention, draw them, and return the object.

    Args:
        text: A run's folder, a network's name, or MODEL=WEIGHTS.
        files: Image files to look at; none takes test images, drawn with a fixed seed.
        dataset_name: Whose test images; None takes those of the run.
        num_images: How many test images; attention is drawn for the first few.
        out: Folder for the figures, below which one named like the network is made.
        overrides: Recipe settings of place, by dotted location.
        progress: Called with (images done, images).

    Raises:
        UsageError: The network has no class token, or it is no run and no images were named.
        DataError: An image cannot be read.
    """
    predictor = open_predictor(text, overrides=overrides)
    backbone = token_backbone(predictor.subject.classifier)
    images, source = _images(predictor, text, files, dataset_name, num_images)
    with StopSignals(hint="") as stop:
        looked = _look(predictor, images, stop=stop, progress=progress)
    name = predictor.subject.name
    folder = out / name
    positions, similarity = _positions(backbone)
    facts: dict[str, Any] = {
        "name": name,
        "model": predictor.subject.classifier.name,
        "tokens": _token_names(predictor.subject.classifier),
        "two_class_tokens": predictor.subject.classifier.two_class_tokens,
        "source": source,
        "num_images": len(images),
        "seed": None if files else SAMPLE_SEED,
        **_token_cosines(backbone, positions),
        "layers": _layers(looked),
        "final": None if looked.final is None else describe_cosines(looked.final),
        "positions": None if similarity is None else _position_facts(similarity),
        "attention": _attention_facts(looked, _token_names(predictor.subject.classifier)),
        "paper": PAPER,
        "notes": list(predictor.notes),
    }
    shown = [images.ids[index] for index in range(len(looked.pixels))]
    figures = _draw(facts, looked, similarity, folder, names=shown)
    return {**facts, "images_drawn": shown, "figures": figures}


def _images(
    predictor: Predictor,
    text: str,
    files: Sequence[Path],
    dataset_name: str | None,
    num_images: int,
) -> tuple[ImageSet, str]:
    """Return the images to look at, and what they are called."""
    if files:
        return _from_files(files), "image file" if len(files) == 1 else "image files"
    recipe = predictor.recipe
    if dataset_name is not None:
        data_dir = Path(recipe.data.data_dir) if recipe.data.data_dir else None
        dataset = load_dataset(dataset_name, data_dir=data_dir, for_evaluation=True)
        split = "test" if "test" in dataset.splits else next(iter(dataset.splits))
        images, source = dataset.splits[split], f"{split} images of {display_name(dataset)}"
    elif predictor.is_run:
        splits = load_splits(recipe.data)
        images, source = splits.test, f"test images of {splits.name}"
    else:
        raise UsageError(
            f"{text} is no run with images of its own, and none were named",
            hint="Name image files after it, or a dataset with --dataset",
        )
    drawn = np.random.default_rng(SAMPLE_SEED).permutation(len(images))[:num_images]
    return images.subset(drawn), source


def _from_files(paths: Sequence[Path]) -> ImageSet:
    """Return files that belong to no dataset; their labels mean nothing."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"there is no image file {missing[0]}",
            hint="Give paths of image files, such as photos/cat.jpg; --dataset takes datasets",
        )
    return ImageSet.from_files(
        Path(),
        [str(path.resolve()) for path in paths],
        np.zeros(len(paths), np.int64),
        ids=[str(path) for path in paths],
        apply_exif=True,
    )


@torch.no_grad()
def _look(
    predictor: Predictor, images: ImageSet, *, stop: StopSignals, progress: Progress | None
) -> TokenMeasurements:
    """Show the network all images, in float32, and take its tokens and attention out."""
    classifier = predictor.subject.classifier
    normalize = build.normalization(classifier)
    backbone: Any = classifier.backbone
    layers: list[NDArray[np.float64]] = []
    final: list[NDArray[np.float64]] = []
    pixels: list[NDArray[np.uint8]] = []
    maps: dict[str, NDArray[np.float32]] = {}
    done = 0
    for batch in predictor_at(predictor).batches(images, stop=stop):
        stop.check()
        splits = normalize(batch.images.to(predictor.device))  # (B, 3, R, R)
        if not pixels:
            first = batch.images[:MOST_MAPS]
            pixels = list(first.permute(0, 2, 3, 1).numpy())  # (R, R, 3) each
            maps = attention_maps(classifier, splits[:MOST_MAPS])
        if classifier.distilled:
            embeddings = classifier.forward_layers(splits)  # (L + 1, B, 2, D)
            layers.append(_between(embeddings))
            final.append(_between(backbone.norm(embeddings[-1])))
        done += len(batch.labels)
        if progress is not None:
            progress(done, len(images))
    return TokenMeasurements(
        layers=np.concatenate(layers, axis=1) if layers else None,
        final=np.concatenate(final) if final else None,
        pixels=pixels,
        maps=maps,
    )


def _between(embeddings: Tensor) -> NDArray[np.float64]:
    """Return the cosines (...) between the first and the second of tokens (..., 2, D)."""
    values = embeddings.float().cpu().numpy()
    return cosine(values[..., 0, :], values[..., 1, :])


def attention_maps(classifier: Classifier, splits: Tensor) -> dict[str, NDArray[np.float32]]:
    """Return what the tokens take from each patch (B, T, h, w), in the last layer and by rollout.

    Args:
        classifier: In evaluation mode.
        inputs: Normalized images (B, 3, R, R).

    Raises:
        UsageError: The network has no class token.
    """
    token_backbone(classifier)
    backbone: Any = classifier.backbone
    weights = attention_by_layer(classifier, splits)  # (L, M, N, N)
    grid = tuple(side // backbone.patch_embed.patch_size[0] for side in splits.shape[-2:])
    # tokens beyond the first two (registers) have nothing to be compared with
    prefix, kept = backbone.num_prefix_tokens, len(_token_names(classifier))
    return {
        kind: token_maps(flow, num_tokens=prefix, grid=(grid[0], grid[1]))[:, :kept].cpu().numpy()
        for kind, flow in (("last", weights[-1]), ("rollout", rollout(weights)))
    }


def _token_names(classifier: Classifier) -> list[str]:
    return ["class", "distill"] if classifier.distilled else ["class"]


def _positions(backbone: Any) -> tuple[Tensor | None, NDArray[np.float64] | None]:
    """Return the tokens' own positions (T, D) and the similarity (h, w, h, w) of the patches'."""
    positions = getattr(backbone, "pos_embed", None)
    if positions is None:
        return None, None
    height, width = backbone.patch_embed.grid_size
    patches = positions[0, -height * width :].detach().float().cpu()
    own = positions[0, : positions.shape[1] - height * width].detach().float().cpu()
    grid = patches.unflatten(0, (height, width)).numpy()
    return own, position_similarity(grid)


def _token_cosines(backbone: Any, positions: Tensor | None) -> dict[str, float | None]:
    """Return the cosine of the learned tokens: by themselves, their positions, and the sums."""
    names = ("token_cosine", "token_position_cosine", "token_cosine_with_positions")
    if getattr(backbone, "dist_token", None) is None:
        return dict.fromkeys(names)
    pair = [
        token[0, 0].detach().float().cpu() for token in (backbone.cls_token, backbone.dist_token)
    ]
    own = (
        positions if positions is not None and len(positions) > 1 else torch.zeros(2, len(pair[0]))
    )
    sums = [token + place for token, place in zip(pair, own[:2], strict=True)]
    angles = (cosine(*(part.numpy() for part in two)) for two in (pair, own[:2], sums))
    return {name: float(angle) for name, angle in zip(names, angles, strict=True)}


def _layers(looked: TokenMeasurements) -> list[dict[str, Any]]:
    """Return the cosines after each layer; layer 0 is the input of the first block."""
    if looked.layers is None:
        return []
    return [
        {"layer": number, **describe_cosines(cosines)}
        for number, cosines in enumerate(looked.layers)
    ]


def _position_facts(similarity: NDArray[np.float64]) -> dict[str, Any]:
    return {"grid": list(similarity.shape[:2]), **describe_positions(similarity)}


def _attention_facts(looked: TokenMeasurements, names: Sequence[str]) -> dict[str, Any]:
    """Return each token's share of attention on the patches, and how alike both maps are."""
    facts: dict[str, Any] = {"num_images": len(looked.pixels)}
    for kind, maps in looked.maps.items():
        shares = maps.sum(axis=(2, 3)).mean(axis=0)  # (T,)
        facts[kind] = {
            "patch_share": dict(zip(names, shares.astype(float).tolist(), strict=True)),
            "overlap": map_overlap(maps[:, 0], maps[:, 1]) if len(names) > 1 else None,
        }
    return facts


def _draw(
    facts: Mapping[str, Any],
    looked: TokenMeasurements,
    similarity: NDArray[np.float64] | None,
    folder: Path,
    *,
    names: Sequence[str],
) -> dict[str, str]:
    """Write the figures that there is something for; return where each lies."""
    figures: dict[str, str] = {}
    if facts["layers"]:
        figures["cosines"] = str(folder / "cosines.png")
        cosines_png(folder / "cosines.png", facts)
    if similarity is not None:
        figures["positions"] = str(folder / "positions.png")
        positions_png(folder / "positions.png", similarity, title=facts["name"])
    rows = [
        AttentionImage(
            name=name,
            pixels=pixels,
            maps={kind: maps[number] for kind, maps in looked.maps.items()},
        )
        for number, (name, pixels) in enumerate(zip(names, looked.pixels, strict=True))
    ]
    figures["attention"] = str(folder / "attention.png")
    attention_png(folder / "attention.png", rows, tokens=facts["tokens"], title=facts["name"])
    return figures
