"""Finished runs lose their checkpoints, and nothing else; unfinished ones lose nothing."""

from pathlib import Path

import pytest

from deit_transfer.runs.clean import clean_runs
from deit_transfer.runs.folder import RunFolder


def make_run(path: Path, *, state: str, finished: bool) -> RunFolder:
    folder = RunFolder(path)
    (folder.checkpoints / "last-00000001").mkdir(parents=True)
    (folder.checkpoints / "last-00000001" / "state.pt").write_bytes(b"x" * 1000)
    folder.write_text("recipe.toml", "")
    folder.set_status(state)
    if finished:
        for name in ("model.safetensors", "model.json", "result.json"):
            folder.write_text(name, "{}")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path / "done", state="done", finished=True)
    make_run(tmp_path / "stopped", state="stopped", finished=False)
    return tmp_path


def test_a_dry_run_removes_nothing_and_tells_the_sizes(runs: Path) -> None:
    before = sorted(runs.rglob("*"))
    facts = clean_runs(runs, dry_run=True)
    assert facts["removed"] == [{"run": str(runs / "done"), "bytes": 1000}]
    assert facts["bytes"] == 1000
    assert [row["run"] for row in facts["kept"]] == [str(runs / "stopped")]
    assert "--resume goes on" in facts["kept"][0]["reason"]
    assert sorted(runs.rglob("*")) == before


def test_finished_runs_keep_all_but_their_checkpoints(runs: Path) -> None:
    before = {path for path in runs.rglob("*") if "checkpoints" not in path.parts}
    facts = clean_runs(runs, dry_run=False)
    assert facts["bytes"] == 1000
    assert not (runs / "done" / "checkpoints").exists()
    assert (runs / "stopped" / "checkpoints" / "last-00000001" / "state.pt").exists()
    assert before <= set(runs.rglob("*"))
    assert clean_runs(runs, dry_run=False)["removed"] == []


def test_a_run_in_use_is_left_alone(runs: Path) -> None:
    with RunFolder(runs / "done").lock():
        facts = clean_runs(runs, dry_run=False)
    assert facts["removed"] == []
    assert "in use by another process" in [row["reason"] for row in facts["kept"]]
    assert (runs / "done" / "checkpoints").exists()


def test_a_damaged_run_is_left_alone(runs: Path) -> None:
    (runs / "done" / "status.json").write_text("{}")
    facts = clean_runs(runs, dry_run=False)
    assert facts["removed"] == []
    assert "damaged" in [row["reason"] for row in facts["kept"]]
