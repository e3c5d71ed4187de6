"""The paper's published values as data: every table and figure, with its source.

Touvron et al., Training data-efficient image transformers & distillation through attention,
ICML 2021 (arXiv 2012.12877). The figures are in paper.toml. Knows no figure of ours.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAPER = "Touvron et al., ICML 2021"
EMPTY = "-"
HERE = "here: "  # begins the note that says what all figures of ours are of

PaperValue = float | str | None


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper, or the numbers behind a figure of it.

    `rows` maps a row's name to a value a column; None where the paper leaves the cell empty.
    """

    key: str
    title: str
    unit: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[PaperValue, ...]]
    notes: tuple[str, ...]

    @property
    def source(self) -> str:
        """Return where the figures stand: Touvron et al., ICML 2021, Table 6."""
        return f"{PAPER}, {self.key[:-1].capitalize()} {self.key[-1]}"

    def column(self, name: str) -> dict[str, PaperValue]:
        """Return a column's value of every row."""
        place = self.columns.index(name)
        return {row: values[place] for row, values in self.rows.items()}


@dataclass(frozen=True, kw_only=True)
class PaperNetwork:
    """The timm name of a network of the paper; `weights` where the scored ones are public."""

    model: str
    weights: str | None = None


def _tables(text: Mapping[str, Any]) -> dict[str, PaperTable]:
    tables: dict[str, PaperTable] = {}
    for key in (key for key in text if re.fullmatch(r"(table|figure)[0-9]", key)):
        entry = text[key]
        columns = tuple(entry["columns"])
        if "from" in entry:
            source = tables[entry["from"]]
            places = [source.columns.index(column) for column in columns]
            picked = {n: tuple(row[place] for place in places) for n, row in source.rows.items()}
            rows = {name: values for name, values in picked.items() if None not in values}
        else:
            rows = {
                name: tuple(None if value == EMPTY else value for value in values)
                for name, values in entry["rows"].items()
            }
        tables[key] = PaperTable(
            key=key,
            title=entry["title"],
            unit=entry["unit"],
            columns=columns,
            rows=rows,
            notes=tuple(entry.get("notes", ())),
        )
    return tables


def _numbers(values: Mapping[str, PaperValue]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, float | int)}


_TEXT = tomllib.loads(Path(__file__).with_name("paper.toml").read_text(encoding="utf-8"))

TABLES: Mapping[str, PaperTable] = _tables(_TEXT)
NETWORKS: Mapping[str, PaperNetwork] = {
    name: PaperNetwork(**network) for name, network in _TEXT["networks"].items()
}

# Table 6: fine-tuned from ImageNet; the column of ImageNet is the pretraining itself
TRANSFER_DATASETS = ("imagenet", "cifar10", "cifar100", "flowers102", "cars", "inat18", "inat19")
TRANSFER: dict[str, tuple[float | None, ...]] = {
    name: tuple(None if value is None else float(value) for value in values[:-1])
    for name, values in TABLES["table6"].rows.items()
}

# Section 5.4: trained on CIFAR-10 alone, images rescaled to 224, up to 7200 epochs
SCRATCH: dict[str, dict[str, float]] = _TEXT["scratch"]

# Table 5: trained on ImageNet-1k alone for 300 epochs
IMAGENET: dict[str, float] = {
    name: top1
    for name, top1 in _numbers(TABLES["table5"].column("ImageNet")).items()
    if name == "RegNetY-16GF" or (name.startswith("DeiT") and "1000" not in name)
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
    """One value of the paper; `same_model` is False where a close relative stands in."""

    top1: float
    model: str
    source: str
    same_model: bool

    @property
    def label(self) -> str:
        """The value's source, for a table's footnote."""
        stands_in = "" if self.same_model else "; it gives none for this model and size"
        return f"{self.model}, {self.source}{stands_in}"


def paper_top1(
    dataset: str, model: str, mode: str, *, resolution: int | None = None
) -> PaperFigure | None:
    """Return the paper's top-1 for a dataset, model and mode, or None where it has none.

    The paper transfers DeiT-B alone. For a smaller DeiT, or another resolution, the figure of
    DeiT-B, distilled alike, is returned with `same_model` False; other networks have none.

    Args:
        dataset: Catalog name; spelling variants such as `Stanford-Cars` are known.
        model: A timm name such as `deit_base_distilled_patch16_384`.
        mode: `finetune`, `scratch` or `pretrain`; on ImageNet they are one.
        resolution: Side of the input in pixels; read from the model's name when None.
    """
    table, source = _table(paper_dataset(dataset), mode)
    name, exact = paper_model(model, resolution)
    larger = re.sub(r"DeiT-(Ti|S)", "DeiT-B", name)
    for candidate in (name, larger, larger.removesuffix(" at 384")):
        if candidate in table:
            same = exact and candidate == name
            return PaperFigure(
                top1=table[candidate], model=candidate, source=source, same_model=same
            )
    return None


def paper_dataset(name: str) -> str:
    """Return the word for a dataset in `TRANSFER_DATASETS`, however it is spelled."""
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return _ALIASES.get(key, key)


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


def paper_model(model: str, resolution: int | None) -> tuple[str, bool]:
    """Return the paper's word for a timm name, and whether it was trained at this resolution.

    The word is empty where the paper transfers or teaches with no such network.
    """
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


def paper_matrix() -> tuple[list[str], list[list[float]]]:
    """Return the names and the rates of the paper's Table 4, ground truth first, as ours."""
    ground_truth = "ground truth"
    table = TABLES["table4"]
    names = [ground_truth, *table.columns]
    from_truth = table.rows[ground_truth]
    square = [(0.0, *from_truth)]
    square += [(table.rows[ground_truth][n], *table.rows[c]) for n, c in enumerate(table.columns)]
    return names, [[float(value or 0) for value in row] for row in square]
