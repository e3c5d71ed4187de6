"""List datasets and runs, and describe one run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deit_transfer.errors import DataError, UsageError
from deit_transfer.runs.folder import (
    DATA_FILE,
    ENVIRONMENT_FILE,
    RESULT_FILE,
    RunFolder,
    find_runs,
    open_run,
)

if TYPE_CHECKING:
    from deit_transfer.data.dataset import Dataset, Progress

# what says which images and classes a dataset has, of a recipe's section [data]
CHECKED_SETTINGS = ("data_dir", "rank", "class_order", "classes")
MOST_COUNTED = 100_000  # files, when the size of a dataset on disk is added up


def describe_datasets(data_dir: Path | None) -> list[dict[str, Any]]:
    """Return one row per dataset of the catalog, with where it was found."""
    from deit_transfer.data.catalog import find_dataset, list_datasets
    from deit_transfer.data.readers.file_listing import size_on_disk

    rows = []
    for info in list_datasets():
        place = find_dataset(info.name, data_dir=data_dir)
        size, whole = size_on_disk(place, most_files=MOST_COUNTED) if place else (0, True)
        rows.append(
            {
                "name": info.name,
                "title": info.title,
                "num_classes": info.num_classes,
                "counts": dict(info.counts),
                "license": info.license,
                "access": info.access,
                "download_mb": info.download_mb,
                "size_mb": size / 1e6 if place is not None else None,
                "size_is_whole": whole,
                "found": str(place) if place is not None else None,
            }
        )
    return rows


def load_for_check(
    dataset: str, *, overrides: Mapping[str, Any], progress: "Progress | None" = None
) -> "Dataset":
    """Load a dataset as its files have it, with the classes that the settings ask for.

    Args:
        dataset: Catalog name, address or folder; one that only scores is taken as well.
        overrides: Recipe settings by dotted location, of those that say what a dataset is.
        progress: Called while it is fetched, unpacked or listed.

    Raises:
        UsageError: A setting says what is done with a dataset, not what it is.
    """
    from deit_transfer.data.catalog import load_dataset
    from deit_transfer.data.dataset import Options
    from deit_transfer.data.splits import keep_classes
    from deit_transfer.recipe.loader import check_values

    values = {location.removeprefix("data."): value for location, value in overrides.items()}
    if idle := sorted(overrides.keys() - {f"data.{name}" for name in CHECKED_SETTINGS}):
        raise UsageError(
            f"data check reads all that a dataset has: {', '.join(idle)} changes nothing there",
            hint=f"These do: {', '.join(f'data.{name}' for name in CHECKED_SETTINGS)}",
        )
    settings = check_values({"mode": "finetune", "data": values}, where="of --set").data
    found = load_dataset(
        dataset,
        data_dir=Path(settings.data_dir) if settings.data_dir is not None else None,
        options=Options(rank=settings.rank, class_order=settings.class_order),
        progress=progress,
    )
    return keep_classes(found, settings.classes) if settings.classes else found


def describe_runs(out: Path) -> list[dict[str, Any]]:
    """Return one row per run below a folder, oldest first."""
    return [_run_row(folder, out) for folder in find_runs(out)]


def describe_run(path: Path) -> dict[str, Any]:
    """Return all that is known of one run: status, result, epochs, start, environment."""
    folder = open_run(path)
    return {
        "run": str(path),
        "status": folder.status(),
        "result": folder.read_json(RESULT_FILE),
        "epochs": folder.metrics(),
        "pretrained": folder.read_json("load_report.json"),
        "data": folder.read_json(DATA_FILE),
        "environment": folder.read_json(ENVIRONMENT_FILE),
    }


def _run_row(folder: RunFolder, out: Path) -> dict[str, Any]:
    keys = ("mode", "dataset", "model", "pretrained", "seed", "top1", "epochs", "seconds")
    name = folder.path.relative_to(out).as_posix()
    try:
        result, status = folder.read_json(RESULT_FILE), folder.status()
    except DataError as error:
        return {"run": name, "state": "damaged", **dict.fromkeys(keys), "problem": error.message}
    row = {key: result.get(key) for key in keys}
    return {"run": name, "state": status.get("state", "unknown"), **row, "problem": None}
