"""The hub gets a folder that timm opens, with the card; refusals are one sentence."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
from exports import NAMES, write_run

from deit_transfer.errors import CheckpointError, UsageError
from deit_transfer.export.formats import check_repository
from deit_transfer.export.push import push


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


class FakeHub:
    """Stands where HfApi does: keeps what it is given, or raises."""

    calls: list[tuple[str, dict[str, Any]]]
    error: Exception | None = None

    def __init__(self, **_kwargs: Any) -> None:
        pass

    def create_repo(self, repository: str, **options: Any) -> None:
        if FakeHub.error is not None:
            raise FakeHub.error
        FakeHub.calls.append(("create", {"repository": repository, **options}))

    def upload_folder(self, **options: Any) -> None:
        names = sorted(path.name for path in Path(options["folder_path"]).iterdir())
        FakeHub.calls.append(("upload", {"repository": options["repo_id"], "names": names}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    FakeHub.calls, FakeHub.error = [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    return FakeHub


def test_a_dry_run_writes_a_folder_that_timm_opens(run: Path, hub: type[FakeHub]) -> None:
    for _ in range(2):  # an earlier folder is replaced
        facts = push(run, "me/ants", private=False, dry_run=True)
    assert hub.calls == []
    assert facts["address"] is None
    assert sorted(facts["files"]) == ["README.md", "config.json", "model.safetensors"]
    network = timm.create_model(f"local-dir:{facts['folder']}", pretrained=True)
    assert network.pretrained_cfg["label_names"] == list(NAMES)
    assert "hf-hub:me/ants" in (Path(facts["folder"]) / "README.md").read_text()


def test_a_push_creates_the_repository_and_uploads_the_folder(
    run: Path, hub: type[FakeHub]
) -> None:
    facts = push(run, "me/ants", private=True, dry_run=False)
    assert facts["address"] == "https://huggingface.co/me/ants"
    assert hub.calls == [
        ("create", {"repository": "me/ants", "private": True, "exist_ok": True}),
        (
            "upload",
            {"repository": "me/ants", "names": ["README.md", "config.json", "model.safetensors"]},
        ),
    ]


def test_a_hub_that_cannot_be_reached(run: Path, hub: type[FakeHub]) -> None:
    hub.error = OSError("Name or service not known")
    with pytest.raises(CheckpointError, match="cannot be reached: Name or service") as caught:
        push(run, "me/ants", private=False, dry_run=False)
    assert "hf upload me/ants" in caught.value.hint


@pytest.mark.parametrize("name", ["ants", "me/ants/more", "me/", "/ants", "me/an ts", "-me/ants"])
def test_a_name_that_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        check_repository(name)
