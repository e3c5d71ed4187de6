"""Download files of dataset repositories from the Hugging Face hub with its own client.

The client resumes, locks and stores by content in its own cache, which is looked into first. Only
files are fetched: no code of a repository is ever run.
"""

import hashlib
from pathlib import Path
from typing import Any

from deit_transfer.errors import DataError, ResourceError

_TIMEOUT_S = 8.0  # for the first answer; someone offline should not wait long


def fetch_file(repository: str, name: str, *, by_hand: str) -> Path:
    """Return a local copy of one file of a dataset repository, verified where it was fetched.

    Args:
        repository: `owner/name`.
        name: Path of the file in the repository.
        by_hand: What the user can do where there is no network; the hint of every failure.

    Raises:
        DataError: It is in no cache and cannot be fetched, or is not what was published.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    published = _published(repository, None, by_hand)
    try:
        path = Path(hf_hub_download(repository, name, repo_type="dataset", revision=published.sha))
    except Exception as error:
        raise _failed(repository, error, by_hand) from error
    for file in published.siblings or ():
        if file.rfilename == name and file.lfs is not None:
            _verify(path, file.lfs.sha256, by_hand)
    return path


def fetch_parquet(repository: str, revision: str | None, *, by_hand: str) -> tuple[Path, str]:
    """Return a folder with a dataset repository's parquet files, and the commit they are of.

    Args:
        repository: `owner/name`.
        revision: Branch, tag or commit; None is the newest here, else the newest there.
        by_hand: The hint of every failure.

    Raises:
        DataError: They are in no cache and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {
        "repo_id": repository,
        "repo_type": "dataset",
        "revision": revision,
        "allow_patterns": ["*.parquet"],
    }
    try:
        folder = Path(snapshot_download(**options, local_files_only=True))
    except Exception:  # not here, or not whole: which of its errors says so changed over time
        published = _published(repository, revision, by_hand)
        try:
            folder = Path(snapshot_download(**{**options, "revision": published.sha}))
        except Exception as error:
            raise _failed(repository, error, by_hand) from error
    return folder, folder.name  # the client names a snapshot's folder by its commit


def _published(repository: str, revision: str | None, by_hand: str) -> Any:
    """List the files of a repository; fails early where there is no network."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(
            repository, revision=revision, timeout=_TIMEOUT_S, files_metadata=True
        )
    except Exception as error:
        raise _failed(repository, error, by_hand) from error


def _failed(repository: str, error: Exception, by_hand: str) -> DataError | ResourceError:
    """Turn an error of the hub's client, which raises many kinds, into one sentence."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return DataError(
            f"{repository} is given only to those who accepted its terms",
            hint=f"Accept them on huggingface.co/datasets/{repository}, then type: hf auth login",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(f"{repository} has no such revision", hint=by_hand)
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(f"the hub has no dataset {repository}, or it is private", hint=by_hand)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DataError(f"cannot fetch {repository}: HF_HUB_OFFLINE is set", hint=by_hand)
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        return ResourceError(f"cannot write {error.filename}: {error.strerror}", hint=by_hand)
    reason = str(error).partition("\n")[0] or type(error).__name__
    return DataError(f"cannot fetch {repository} (offline?): {reason}", hint=by_hand)


def _verify(path: Path, expected: str, by_hand: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is not the published file: sha256 {found}, expected {expected}",
            hint=f"Delete it and try again. {by_hand}",
        )
