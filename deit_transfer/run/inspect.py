"""Own looking at what is already there: datasets, and runs that ended or stopped."""

from pathlib import Path
from typing import Any

from deit_transfer.run.workdir import (
    ENVIRONMENT_FILE,
    RESULT_FILE,
    RunFolder,
    find_runs,
    open_run,
)

MOST_COUNTED = 100_000  # files, when the size of a dataset on disk is added up


def describe_datasets(data_dir: Path | None) -> list[dict[str, Any]]:
    """Return one row per dataset of the catalogue, with where it was found."""
    from deit_transfer.data.catalog import find_dataset, list_datasets
    from deit_transfer.data.listing import size_on_disk

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
                "licence": info.licence,
                "access": info.access,
                "download_mb": info.download_mb,
                "size_mb": size / 1e6 if place is not None else None,
                "size_is_whole": whole,
                "found": str(place) if place is not None else None,
            }
        )
    return rows


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
        "start": folder.read_json("load_report.json"),
        "data": folder.read_json("data.json"),
        "environment": folder.read_json(ENVIRONMENT_FILE),
    }


def _run_row(folder: RunFolder, out: Path) -> dict[str, Any]:
    result, status = folder.read_json(RESULT_FILE), folder.status()
    keys = ("mode", "dataset", "model", "start", "seed", "top1", "epochs", "seconds")
    return {
        "run": folder.path.relative_to(out).as_posix(),
        "state": status.get("state", "unknown"),
        **{key: result.get(key) for key in keys},
    }
