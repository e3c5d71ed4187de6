"""`runs clean`: remove what finished runs no longer need, the checkpoints with optimizer states."""

import shutil
from pathlib import Path
from typing import Any

from deit_transfer.errors import DataError, ResourceError, RunLockedError
from deit_transfer.runs.folder import RESULT_FILE, RunFolder, find_runs


def clean_runs(out: Path, *, dry_run: bool) -> dict[str, Any]:
    """Remove the checkpoints of every finished run below a folder; its weights and results stay.

    A run that has no result, or that another process is working on, is left alone.

    Args:
        out: Folder that holds the runs, or a run's own.
        dry_run: Remove nothing, and return what would go.

    Raises:
        ResourceError: A file cannot be removed.
    """
    removed: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for folder in find_runs(out):
        if not folder.checkpoints.is_dir():
            continue
        size = sum(path.stat().st_size for path in folder.checkpoints.rglob("*") if path.is_file())
        reason = _reason_to_keep(folder) if dry_run else _remove(folder)
        row = {"run": str(folder), "bytes": size}
        if reason:
            kept.append({**row, "reason": reason})
        else:
            removed.append(row)
    return {
        "folder": str(out),
        "dry_run": dry_run,
        "removed": removed,
        "kept": kept,
        "bytes": sum(row["bytes"] for row in removed),
    }


def _reason_to_keep(folder: RunFolder) -> str:
    """Return why a run's checkpoints are still needed; empty where they are not."""
    try:
        state = folder.status().get("state", "unknown")
    except DataError:
        return "damaged"
    if not (folder.path / RESULT_FILE).is_file() or not (folder.path / "model.json").is_file():
        return f"{state}: --resume goes on from them"
    return "" if state == "done" else state


def _remove(folder: RunFolder) -> str:
    try:
        with folder.lock():
            reason = _reason_to_keep(folder)
            if not reason:
                shutil.rmtree(folder.checkpoints)
            return reason
    except RunLockedError:
        return "in use by another process"
    except OSError as error:
        raise ResourceError(
            f"cannot remove {folder.checkpoints}: {error.strerror}",
            hint="Remove it as the user who wrote it",
        ) from None
