"""`push`: a run as a repository of the Hugging Face hub, with its model card."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from deit_transfer.analysis.per_class import confusion
from deit_transfer.errors import CheckpointError, DataError, ResourceError
from deit_transfer.export.card import model_card
from deit_transfer.export.formats import (
    EXPORTS,
    MODEL_FILE_OF_RUN,
    check_repository,
    finished_run,
)
from deit_transfer.files import write_text_atomic
from deit_transfer.models.pretrained import weights_path
from deit_transfer.report.confusion_matrix import confusion_png
from deit_transfer.runs.folder import PREDICTIONS_FILE
from deit_transfer.runs.predictions import read_predictions

HUB_FOLDER = "hub"
CARD_FILE = "README.md"
FIGURE_FILE = "confusion.png"


def push(run: Path, repository: str, *, private: bool, dry_run: bool) -> dict[str, Any]:
    """Write the folder of a repository and, unless it is a dry run, upload it.

    Args:
        run: A finished run's folder.
        repository: OWNER/NAME; made if it is not there.
        private: Whether a new repository is private.
        dry_run: Write the folder only.

    Returns:
        The folder, its files with their bytes, and the address of what was uploaded or None.

    Raises:
        DataError: The folder is no run.
        CheckpointError: The run has not finished, or the hub refuses or cannot be reached.
        UsageError: The repository is no OWNER/NAME.
        ResourceError: The folder cannot be written.
    """
    check_repository(repository)
    folder = write_hub_folder(run, repository)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    address = None if dry_run else _upload(folder, repository, private=private)
    return {
        "run": str(run),
        "repository": repository,
        "private": private,
        "folder": str(folder),
        "files": files,
        "address": address,
    }


def write_hub_folder(run: Path, repository: str) -> Path:
    """Write card, figure, configuration and weights to RUN/exported/hub; an earlier one goes."""
    finished = finished_run(run)
    if not (run / "config.json").is_file():
        raise CheckpointError(
            f"{run} has no config.json: an earlier version wrote it",
            hint=f"deit-transfer export {run} --to timm writes one",
        )
    card = model_card(run, repository=repository)
    place = run / EXPORTS / HUB_FOLDER
    try:
        place.parent.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".hub-", dir=place.parent))
        try:
            shutil.copyfile(weights_path(run), temporary / "model.safetensors")
            shutil.copyfile(run / "config.json", temporary / "config.json")
            class_names = finished.read_json(MODEL_FILE_OF_RUN)["class_names"]
            card = _with_figure(card, run, temporary / FIGURE_FILE, class_names)
            write_text_atomic(temporary / CARD_FILE, card)
            temporary.chmod(0o755)
            if place.exists():
                shutil.rmtree(place)
            os.replace(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ResourceError(
            f"cannot write to {place}: {error.strerror}", hint="Free disk space, and try again"
        ) from None
    return place


def _with_figure(card: str, run: Path, figure: Path, class_names: list[str]) -> str:
    """Draw the confusion matrix where there are answers, and return the card that shows it."""
    try:
        stored = read_predictions(run / PREDICTIONS_FILE)
    except DataError:
        return card
    matrix = confusion(np.argmax(stored.probabilities(), axis=1), stored.labels, class_names)
    title = f"{int(matrix.counts.sum()):,} test images"
    confusion_png(figure, matrix.counts, class_names=matrix.class_names, title=title)
    return card.replace("## Limits", f"![Confusion matrix]({FIGURE_FILE})\n\n## Limits", 1)


def _upload(folder: Path, repository: str, *, private: bool) -> str:
    """Create the repository if it is not there, upload every file in one commit."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    hub = huggingface_hub.HfApi(library_name="deit-transfer")
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload from deit-transfer"
        )
    except LocalTokenNotFoundError:
        raise CheckpointError(
            "you are not logged in to the Hugging Face hub", hint="Log in with hf auth login"
        ) from None
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        raise CheckpointError(
            f"the hub refuses {repository}: {_first_line(error)}",
            hint="Log in with hf auth login, by a token that may write there"
            if code in (401, 403)
            else "Try again later; --dry-run writes the folder, to upload by hand",
        ) from None
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the hub cannot be reached: {_first_line(error)}",
            hint=f"Upload {folder} by hand: hf upload {repository} {folder}",
        ) from None
    return f"https://huggingface.co/{repository}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
