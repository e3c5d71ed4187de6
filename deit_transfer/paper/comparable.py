"""Choose which of the paper's values is comparable with a score, if any."""

from typing import Any

from deit_transfer.models.pretrained import IMAGENET
from deit_transfer.paper.values import (
    NETWORKS,
    TABLES,
    paper_dataset,
    paper_model,
    paper_top1,
)

TABLE_5 = "table5"
# by the catalog's names; the paper's V2 is the matched-frequency set
TABLE_5_COLUMNS = {"imagenet": "ImageNet", "imagenet-real": "ReaL", "imagenet-v2": "V2"}


def paper_beside(
    dataset: str,
    *,
    model: str,
    mode: str,
    resolution: int,
    is_run: bool,
    trained_on: str,
    start: str,
) -> dict[str, Any]:
    """Return `paper_top1` and `paper_label`, or nothing where the paper has no such figure.

    Args:
        dataset: Catalog name of what was scored.
        model: The network's name.
        mode: How the run was trained; empty for a network by name.
        resolution: Pixels a side.
        is_run: Whether it is a run rather than a network by name.
        trained_on: The dataset that the run was trained on.
        start: What a network by name was loaded from.
    """
    on_imagenet = mode == "pretrain" and paper_dataset(trained_on) == "imagenet"
    if dataset in TABLE_5_COLUMNS and (on_imagenet if is_run else True):
        name = _published(model) if not is_run and start == IMAGENET else ""
        name = name or paper_model(model, resolution)[0]
        value = TABLES[TABLE_5].column(TABLE_5_COLUMNS[dataset]).get(name)
        if isinstance(value, float | int):
            source = f"{name}, {TABLES[TABLE_5].source}, {TABLE_5_COLUMNS[dataset]}"
            return {"paper_top1": float(value), "paper_label": source}
        return {}
    if not is_run or paper_dataset(dataset) != paper_dataset(trained_on):
        return {}
    figure = paper_top1(dataset, model, mode, resolution=resolution)
    return {} if figure is None else {"paper_top1": figure.top1, "paper_label": figure.label}


def _published(model: str) -> str:
    """Return the paper's row whose published weights a network by this name loads."""
    return next((row for row, network in NETWORKS.items() if network.weights == model), "")
