"""Own the paper's own figures on transfer and training from scratch, as data with their source.

Touvron et al., Training data-efficient image transformers & distillation through attention,
ICML 2021 (arXiv 2012.12877). Figures are top-1 in percent. Knows no figure of ours.
"""

import re
from dataclasses import dataclass

PAPER = "Touvron et al., ICML 2021"

# Table 6: fine-tuned from ImageNet; the column of ImageNet is the pretraining itself
TRANSFER_DATASETS = ("imagenet", "cifar10", "cifar100", "flowers102", "cars", "inat18", "inat19")
TRANSFER: dict[str, tuple[float | None, ...]] = {
    "EfficientNet-B7": (84.3, 98.9, 91.7, 98.8, 94.7, None, None),
    "ViT-B/32": (73.4, 97.8, 86.3, 85.4, None, None, None),
    "ViT-B/16": (77.9, 98.1, 87.1, 89.5, None, None, None),
    "ViT-L/32": (71.2, 97.9, 87.1, 86.4, None, None, None),
    "ViT-L/16": (76.5, 97.9, 86.4, 89.7, None, None, None),
    "DeiT-B": (81.8, 99.1, 90.8, 98.4, 92.1, 73.2, 77.7),
    "DeiT-B at 384": (83.1, 99.1, 90.8, 98.5, 93.3, 79.5, 81.4),
    "DeiT-B distilled": (83.4, 99.1, 91.3, 98.8, 92.9, 73.7, 78.4),
    "DeiT-B distilled at 384": (84.4, 99.2, 91.4, 98.9, 93.9, 80.1, 83.0),
}

# Section 5.4: trained on CIFAR-10 alone, images rescaled to 224, up to 7200 epochs
SCRATCH: dict[str, dict[str, float]] = {
    "cifar10": {"RegNetY-16GF": 98.0, "DeiT-B": 97.5, "DeiT-B distilled": 98.5},
}

# Table 5: trained on ImageNet-1k alone for 300 epochs
IMAGENET: dict[str, float] = {
    "DeiT-Ti": 72.2,
    "DeiT-S": 79.8,
    "DeiT-B": 81.8,
    "DeiT-B at 384": 83.1,
    "DeiT-Ti distilled": 74.5,
    "DeiT-S distilled": 81.2,
    "DeiT-B distilled": 83.4,
    "DeiT-B distilled at 384": 84.5,
    "RegNetY-16GF": 82.9,
}

_ALIASES = {
    "flowers": "flowers102",
    "oxfordflowers102": "flowers102",
    "stanfordcars": "cars",
    "inat2018": "inat18",
    "inaturalist2018": "inat18",
    "inat2019": "inat19",
    "inaturalist2019": "inat19",
    "imagenet1k": "imagenet",
}


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """Hold one figure of the paper; `same_model` is False where a close relative stands in."""

    top1: float
    model: str
    source: str
    same_model: bool

    @property
    def label(self) -> str:
        """Say whose figure it is, for a table's footnote."""
        stands_in = "" if self.same_model else "; it gives none for this model and size"
        return f"{self.model}, {self.source}{stands_in}"


def paper_top1(
    dataset: str, model: str, mode: str, *, resolution: int | None = None
) -> PaperFigure | None:
    """Return the paper's top-1 for a dataset, model and mode, or None where it has none.

    The paper transfers DeiT-B alone. For a smaller DeiT, or another resolution, the figure of
    DeiT-B, distilled alike, is returned with `same_model` False; other networks have none.

    Args:
        dataset: Catalogue name; spelling variants such as `Stanford-Cars` are known.
        model: A timm name such as `deit_base_distilled_patch16_384`.
        mode: `finetune`, `scratch` or `pretrain`; on ImageNet they are one.
        resolution: Side of the input in pixels; read from the model's name when None.
    """
    key = re.sub(r"[^a-z0-9]", "", dataset.lower())
    key = _ALIASES.get(key, key)
    table, source = _table(key, mode)
    name, exact = _paper_model(model, resolution)
    larger = re.sub(r"DeiT-(Ti|S)", "DeiT-B", name)
    for candidate in (name, larger, larger.removesuffix(" at 384")):
        if candidate in table:
            same = exact and candidate == name
            return PaperFigure(
                top1=table[candidate], model=candidate, source=source, same_model=same
            )
    return None


def _table(dataset: str, mode: str) -> tuple[dict[str, float], str]:
    if dataset == "imagenet":
        return IMAGENET, f"{PAPER}, Table 5"
    if mode in ("scratch", "pretrain"):
        return SCRATCH.get(dataset, {}), f"{PAPER}, section 5.4, from scratch"
    if mode != "finetune" or dataset not in TRANSFER_DATASETS:
        return {}, ""
    column = TRANSFER_DATASETS.index(dataset)
    rows = {row: value for row, values in TRANSFER.items() if (value := values[column])}
    return rows, f"{PAPER}, Table 6"


def _paper_model(model: str, resolution: int | None) -> tuple[str, bool]:
    """Return the paper's word for a timm name, and whether it was trained at this resolution."""
    if model.startswith("regnety_160"):
        return "RegNetY-16GF", resolution in (None, 224)
    matched = re.match(r"deit_(tiny|small|base)(_distilled)?_patch16_(\d+)", model)
    if matched is None:
        return "", False
    size, distilled, named = matched.groups()
    pixels = resolution or int(named)
    name = "DeiT-" + {"tiny": "Ti", "small": "S", "base": "B"}[size]
    at_384 = " at 384" if pixels == 384 else ""
    return name + (" distilled" if distilled else "") + at_384, pixels in (224, 384)
