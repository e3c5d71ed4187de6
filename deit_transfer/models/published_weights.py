"""Find published weights: in the caches first, then on the network.

The hub's client retries for the better part of a minute when there is no network, so the network
is asked once, with a deadline, before the client is.
"""

import hashlib
import os
import threading
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from deit_transfer.errors import CheckpointError, UsageError
from deit_transfer.models.variants import VARIANTS, Variant

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_CONFIG = "config.json"

PROBE_SECONDS = 4.0


def find_published_weights(variant: Variant, *, cache_dir: Path | None) -> tuple[Path, str]:
    """Return the file with a network's published ImageNet weights, downloading it if needed.

    Args:
        variant: The network.
        cache_dir: The hub's cache; None takes the usual one (`HF_HUB_CACHE`, `HF_HOME`).

    Returns:
        The local file, and the name of its source.

    Raises:
        UsageError: Nobody published weights for this network.
        CheckpointError: The weights are in no cache and cannot be downloaded.
    """
    if not variant.has_published_weights:
        published = [v.name for v in VARIANTS.values() if v.is_deit and v.has_published_weights]
        raise UsageError(
            f"there are no published ImageNet weights for {variant.name}",
            hint=f"Start it from one of your runs (--from RUN), train it from nothing "
            f"(deit-transfer scratch), or choose another model: {', '.join(published)}",
        )
    import timm

    config = timm.get_pretrained_cfg(variant.timm_name)
    by_hand = _torch_hub_file(config.url or "")
    if by_hand is not None and _hash_in_name_holds(by_hand):
        return by_hand, config.url
    if not config.hf_hub_id:
        raise CheckpointError(
            f"the published weights of {variant.name} are not on the hub",
            hint=f"Download {config.url} and name the file: --from path/to/file to train, "
            "MODEL=path/to/file to score",
        )
    return find_hub_file(config.hf_hub_id, HUB_FILES, cache_dir=cache_dir), config.hf_hub_id


def find_hub_file(repository: str, names: tuple[str, ...], *, cache_dir: Path | None) -> Path:
    """Return the first of `names` that a hub repository has, from the cache or the network.

    Args:
        repository: `owner/name`, optionally followed by `@revision`.
        names: File names, best first.
        cache_dir: The hub's cache; None takes the usual one.

    Raises:
        CheckpointError: The file is not in the cache and cannot be downloaded.
    """
    repo_id, _, revision = repository.partition("@")
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(
            repo_id, name, cache_dir=cache_dir, revision=revision or None
        )
        if isinstance(cached, str):
            return Path(cached)
    obstacle = _network_obstacle()
    if obstacle:
        raise _not_found(repository, names[0], obstacle, cache_dir)
    for name in names:
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    repo_id, name, cache_dir=cache_dir, revision=revision or None
                )
            )
        except LocalEntryNotFoundError as error:  # the client's word for a lost network
            raise _not_found(repository, name, str(error), cache_dir) from error
        except EntryNotFoundError as error:
            obstacle = str(error)
        except Exception as error:  # the client lets through the errors of its HTTP library
            raise _not_found(repository, name, str(error), cache_dir) from error
    raise _not_found(repository, names[0], obstacle, cache_dir)


def _torch_hub_file(url: str) -> Path | None:
    """Return the file the original code would have downloaded, if it is in torch's cache."""
    if not url:
        return None
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    return path if path.is_file() else None


def _hash_in_name_holds(path: Path) -> bool:
    """Return whether a `name-<sha256 prefix>.pth` file has the hash in its name."""
    promised = path.stem.rsplit("-", 1)[-1]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(promised)


def _network_obstacle() -> str:
    """Return why the hub cannot be asked, or "" when it answers."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set"
    endpoint = huggingface_hub.constants.ENDPOINT
    answers: list[str] = []

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(endpoint, timeout=PROBE_SECONDS)
        except Exception as error:  # whatever the HTTP library raises, there is no network
            answers.append(f"{endpoint} cannot be reached ({error})")
        else:
            answers.append("")

    # A thread, because looking up a name can block for longer than any timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    return answers[0] if answers else f"{endpoint} did not respond in {PROBE_SECONDS:.0f} seconds"


def _not_found(
    repository: str, name: str, obstacle: str, cache_dir: Path | None
) -> CheckpointError:
    """Return the error that says where the file was looked for and how to give it by hand."""
    hub_cache = cache_dir or Path(huggingface_hub.constants.HF_HUB_CACHE)
    torch_cache = Path(torch.hub.get_dir()) / "checkpoints"
    repo_id = repository.partition("@")[0]
    first_line = obstacle.strip().splitlines()[0] if obstacle.strip() else "not found"
    return CheckpointError(
        f"the weights {repository} are neither in {hub_cache} nor in {torch_cache}, "
        f"and cannot be downloaded: {first_line.rstrip('.')}",
        hint=f"Download https://huggingface.co/{repo_id}/resolve/main/{name} where there is a "
        f"network, copy it here and name the file: --from path/to/{name} to train, "
        f"MODEL=path/to/{name} to score",
    )
