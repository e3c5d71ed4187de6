"""Download and unpack a dataset, and describe what is there afterward."""

from pathlib import Path
from typing import Any

from deit_transfer.data.catalog import load_dataset, prepare_dataset
from deit_transfer.data.dataset import Progress


def prepare(
    name: str, *, data_dir: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Fetch what is missing of a dataset, then read its lists and check the published counts.

    Returns:
        What lies where, as plain values.

    Raises:
        DataError: It must be placed by hand, which the hint says how to do, or is at fault.
    """
    root = prepare_dataset(name, data_dir=data_dir, progress=progress)
    dataset = load_dataset(name, data_dir=root if root is not None else data_dir)
    return {
        "dataset": dataset.info.title,
        "name": dataset.info.name,
        "root": str(dataset.root) if dataset.root else None,
        "layout": dataset.layout,
        "counts": {split: len(images) for split, images in dataset.splits.items()},
        "class_names": list(dataset.class_names),
        "license": dataset.info.license,
        "source": dataset.info.source,
        "notes": list(dataset.notes),
        "facts": [("license", dataset.info.license), ("source", dataset.info.source)],
    }
