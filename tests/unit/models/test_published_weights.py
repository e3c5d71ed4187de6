"""Published weights: the caches first, one quick question to the network, clear words offline."""

import hashlib
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file

from deit_transfer.errors import CheckpointError, UsageError
from deit_transfer.models import published_weights
from deit_transfer.models.pretrained import read_pretrained

MODEL = "deit_tiny_patch16_224"
REPOSITORY = "timm/deit_tiny_patch16_224.fb_in1k"
TENSORS = {"head.weight": torch.ones(2, 3)}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own caches and network out of the tests."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def no_network() -> Any:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_session", no_network)


def fill_hub_cache(cache: Path, repository: str = REPOSITORY) -> Path:
    """Lay out one repository as the hub's client would after a download."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    save_file(TENSORS, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text('{"architecture": "deit_x", "label_names": ["a", "b"]}')
    return snapshot


def test_cached_weights_are_read_without_any_network(tmp_path: Path) -> None:
    fill_hub_cache(tmp_path / "cache")
    start = read_pretrained("imagenet", model_name=MODEL, cache_dir=tmp_path / "cache")
    assert torch.equal(start.state_dict["head.weight"], TENSORS["head.weight"])
    assert REPOSITORY in start.origin


def test_weights_of_a_hub_repository_are_read_with_their_class_names(tmp_path: Path) -> None:
    fill_hub_cache(tmp_path / "cache", "someone/their-model")
    start = read_pretrained(
        "hf-hub:someone/their-model", model_name=MODEL, cache_dir=tmp_path / "cache"
    )
    assert start.class_names == ("a", "b")
    assert start.model_name == "deit_x"


def test_the_file_of_the_original_code_is_found_in_torch_s_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": TENSORS}, tmp_path / "original.pth")
    content = (tmp_path / "original.pth").read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:8]
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    name = f"deit_tiny_patch16_224-{digest}.pth"
    (checkpoints / name).write_bytes(content)
    monkeypatch.setattr(published_weights, "_torch_hub_file", lambda url: checkpoints / name)
    assert "head.weight" in read_pretrained("imagenet", model_name=MODEL).state_dict

    (checkpoints / name).write_bytes(content + b"damaged")
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        read_pretrained("imagenet", model_name=MODEL)


def test_torch_s_cache_is_looked_up_by_the_url_s_file_name(tmp_path: Path) -> None:
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "net-0123.pth").touch()
    assert (
        published_weights._torch_hub_file("https://host/x/net-0123.pth")
        == checkpoints / "net-0123.pth"
    )
    assert published_weights._torch_hub_file("https://host/x/other.pth") is None
    assert published_weights._torch_hub_file("") is None


def test_offline_the_error_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        read_pretrained("imagenet", model_name=MODEL)
    assert time.monotonic() - began < 3
    message, hint = caught.value.message, caught.value.hint
    assert REPOSITORY in message
    assert str(tmp_path / "hub") in message
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in message
    assert "Name or service not known" in message
    assert "\n" not in message
    assert f"https://huggingface.co/{REPOSITORY}/resolve/main/model.safetensors" in hint
    assert "--from path/to/model.safetensors" in hint


def test_the_offline_setting_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_be_asked() -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub, "get_session", must_not_be_asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        read_pretrained("imagenet", model_name=MODEL)


def test_a_network_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging:
        def head(self, url: str, timeout: float) -> None:
            time.sleep(5)

    monkeypatch.setattr(huggingface_hub, "get_session", Hanging)
    monkeypatch.setattr(published_weights, "PROBE_SECONDS", -0.9)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="did not respond"):
        read_pretrained("imagenet", model_name=MODEL)
    assert time.monotonic() - began < 2


class Answering:
    """A hub that answers."""

    def head(self, url: str, timeout: float) -> None:
        assert url.startswith("https://")
        assert timeout <= 5


def test_weights_are_downloaded_when_the_hub_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo_id: str, name: str, *, cache_dir: Path | None, revision: str | None) -> str:
        asked.append((repo_id, name))
        if name == "model.safetensors":
            raise EntryNotFoundError("404")
        torch.save(TENSORS, tmp_path / name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "get_session", Answering)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)

    start = read_pretrained("imagenet", model_name=MODEL)

    assert asked == [(REPOSITORY, "model.safetensors"), (REPOSITORY, "pytorch_model.bin")]
    assert torch.equal(start.state_dict["head.weight"], TENSORS["head.weight"])


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk"),
        EntryNotFoundError("404"),
        LocalEntryNotFoundError("lost"),
        ValueError("odd"),
    ],
)
def test_a_failed_download_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*arguments: object, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "get_session", Answering)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(CheckpointError, match=f"cannot be downloaded: {error}"):
        read_pretrained("imagenet", model_name=MODEL)


def test_a_damaged_cached_file_is_refused(tmp_path: Path) -> None:
    snapshot = fill_hub_cache(tmp_path / "cache")
    content = (snapshot / "model.safetensors").read_bytes()
    (snapshot / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        read_pretrained("imagenet", model_name=MODEL, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["deit_micro", "deit_micro_distilled"])
def test_the_micro_networks_have_no_published_weights(name: str) -> None:
    with pytest.raises(UsageError, match="no published ImageNet weights") as caught:
        read_pretrained("imagenet", model_name=name)
    assert "deit-transfer scratch" in caught.value.hint
    assert "deit_tiny_patch16_224" in caught.value.hint
