"""Damage checkpoints in every way a disk or a kill can, and look at what is read back."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deit_transfer.engine import checkpoint as module
from deit_transfer.engine.checkpoint import (
    Checkpoint,
    check_plain,
    list_checkpoints,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from deit_transfer.errors import CheckpointError, DivergedError, ResourceError

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def weights(step: int, size: int = 40) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "layer.weight": torch.randn(size, 3, generator=generator),
        "layer.bias": torch.full((3,), float(step)),
        "norm.num_batches_tracked": torch.tensor(step),
    }


def save(folder: Path, step: int, *, tag: Any = "last", size: int = 40) -> Path:
    model = weights(step, size)
    ema = {name: value + 1 for name, value in model.items()}
    state = {"progress": {"step": step, "best": None}, "moments": [model["layer.weight"] * 2]}
    return save_checkpoint(folder, tag=tag, step=step, model=model, ema=ema, state=state)


def assert_whole(loaded: Checkpoint, step: int) -> None:
    assert loaded.step == step
    for name, value in weights(step).items():
        assert torch.equal(loaded.model[name], value)
        assert loaded.ema is not None
        assert torch.equal(loaded.ema[name], value + 1)
    assert loaded.state["progress"] == {"step": step, "best": None}
    assert torch.equal(loaded.state["moments"][0], weights(step)["layer.weight"] * 2)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_and_generations(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step)
        save(tmp_path, step, tag="best")
    assert names(tmp_path) == ["best-00000015", "last-00000010", "last-00000015"]
    for tag in ("last", "best"):
        loaded = load_checkpoint(tmp_path, tag=tag)
        assert_whole(loaded, 15)
        assert (loaded.problems, loaded.tag) == ([], tag)


def test_without_average_there_is_no_file(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, tag="last", step=1, model=weights(1))
    assert not (path / "ema.safetensors").exists()
    loaded = load_checkpoint(tmp_path)
    assert loaded.ema is None
    assert loaded.state == {}


def test_the_same_step_again_is_the_newer_one(tmp_path: Path) -> None:
    for best in (1.0, 2.0, 3.0, 4.0):
        save_checkpoint(tmp_path, tag="last", step=7, model=weights(7), state={"best": best})
    assert len(names(tmp_path)) == 2
    assert load_checkpoint(tmp_path).state == {"best": 4.0}


def test_a_run_that_went_back_drops_what_lies_ahead(tmp_path: Path) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    (newest / "state.pt").write_bytes(b"")
    assert load_checkpoint(tmp_path).step == 10
    save(tmp_path, 15)
    assert names(tmp_path) == ["last-00000010", "last-00000015"]
    assert load_checkpoint(tmp_path).problems == []


def test_optimizer_and_tied_weights_round_trip(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path, tag="last", step=1, model=model.state_dict(), state=state)
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded.model["1.weight"], model[0].weight)
    fresh = torch.optim.AdamW(model.parameters())
    fresh.load_state_dict(loaded.state["optimizer"])
    assert fresh.param_groups[0]["betas"] == (0.8, 0.9)
    for ours, theirs in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"])


def files_of(path: Path) -> list[Path]:
    return sorted(path.iterdir())


def test_truncation_anywhere_falls_back_and_says_so(tmp_path: Path) -> None:
    save(tmp_path / "good", 1)
    save(tmp_path / "good", 2)
    for file in files_of(load_checkpoint(tmp_path / "good").path):
        whole = file.read_bytes()
        for sixteenth in range(16):
            file.write_bytes(whole[: len(whole) * sixteenth // 16])
            loaded = load_checkpoint(tmp_path / "good")
            assert_whole(loaded, 1)
            assert len(loaded.problems) == 1
            assert file.name in loaded.problems[0]
        file.unlink()
        assert_whole(load_checkpoint(tmp_path / "good"), 1)
        file.write_bytes(whole)
    assert_whole(load_checkpoint(tmp_path / "good"), 2)


def test_a_flipped_bit_falls_back_or_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    draw = random.Random(0)
    for file in files_of(path):
        whole = file.read_bytes()
        positions = draw.sample(range(len(whole)), 60)
        for position in positions:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << draw.randrange(8)
            file.write_bytes(damaged)
            loaded = load_checkpoint(tmp_path)
            # White space between the manifest's values carries nothing.
            harmless = file.name == "manifest.json" and loaded.step == 2
            assert_whole(loaded, 2 if harmless else 1)
            assert bool(loaded.problems) is not harmless
        file.write_bytes(whole)


def test_a_manifest_that_lies_is_found_out(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["step"] = 3
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_nothing_usable_names_every_reason(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no last checkpoint") as caught:
        load_checkpoint(tmp_path / "absent")
    assert caught.value.hint
    save(tmp_path, 1)
    for path in [*list_checkpoints(tmp_path, tag="last"), save(tmp_path, 2)]:
        (path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    assert "last-00000001" in caught.value.message
    assert "last-00000002" in caught.value.message


def test_strange_names_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / "last-abc").mkdir()
    (tmp_path / "last-99999999").write_text("a file")
    (tmp_path / "last-00000009-copy").mkdir()
    assert load_checkpoint(tmp_path).step == 3


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, 1)
    torch.save({"x": Payload()}, path / "state.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.pt"] = {
        "bytes": (path / "state.pt").stat().st_size,
        "sha256": module._sha256(path / "state.pt"),
    }
    del manifest["sha256"]
    manifest["sha256"] = module._own_hash(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("where", ["model", "ema", "state"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_written(tmp_path: Path, where: str, bad: float) -> None:
    save(tmp_path, 1)
    good = {"w": torch.ones(3)}
    parts = {"model": good, "ema": good, "state": {"moments": [torch.ones(3)]}}
    parts[where] = {"w": torch.tensor([1.0, bad])}
    with pytest.raises(DivergedError, match=f"{where}.w"):
        save_checkpoint(tmp_path, tag="last", step=2, **parts)
    assert names(tmp_path) == ["last-00000001"]


def test_state_of_other_types_is_refused_before_writing(tmp_path: Path) -> None:
    for value in (Path("x"), {1, 2}, object(), nn.Parameter(torch.ones(1))):
        with pytest.raises(ValueError, match=r"state\['a'\]\[1\]"):
            save_checkpoint(tmp_path, tag="last", step=1, model=weights(1), state={"a": [0, value]})
    check_plain({"a": [1, 2.0, "x", None, True, (torch.ones(1),)], 3: {}})
    assert not tmp_path.joinpath("last-00000001").exists()


def _in_child(work: Any, *args: Any) -> str:
    """Run work in a forked process and return what it puts into its queue."""
    queue = FORK.SimpleQueue()
    process = FORK.Process(target=work, args=(queue, *args))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    return queue.get()


def _save_with_limit(queue: Any, folder: Path, limit: int) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        save(folder, 3, size=4000)
        queue.put("saved")
    except ResourceError as error:
        queue.put(f"{error.exit_code} {error.message}")


@pytest.mark.parametrize("limit", [0, 100, 40_000, 48_500])
def test_a_full_disk_leaves_the_old_files_whole(tmp_path: Path, limit: int) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    save(tmp_path, 2, tag="best")
    answer = _in_child(_save_with_limit, tmp_path, limit)
    assert answer.startswith("6 the checkpoint of step 3 cannot be written")
    assert "144,0" in answer  # bytes needed
    # Our own older generation was given up to make room, once; the newest and the best were not.
    assert names(tmp_path) == ["best-00000002", "last-00000002"]
    assert_whole(load_checkpoint(tmp_path), 2)
    assert_whole(load_checkpoint(tmp_path, tag="best"), 2)


def test_giving_up_the_older_generation_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(folder: Path) -> Any:
        full = (tmp_path / "last-00000001").exists()
        return usage._replace(free=10) if full else usage

    monkeypatch.setattr(module.shutil, "disk_usage", disk_usage)
    save(tmp_path, 3)
    assert names(tmp_path) == ["last-00000002", "last-00000003"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="cannot be written") as caught:
        save(tmp_path / "file" / "checkpoints", 1)
    assert "writable" in caught.value.hint


def step_now(folder: Path) -> int:
    return int(list_checkpoints(folder, tag="last")[-1].name.removeprefix("last-"))


def test_a_live_run_can_be_read_while_it_saves(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 1, tag="best")
    process = FORK.Process(target=_save_for_ever, args=(tmp_path, 1))
    process.start()
    give_up = time.monotonic() + 20
    steps = set()
    while len(steps) < 12 and time.monotonic() < give_up:
        loaded = load_checkpoint(tmp_path, tag="best")
        assert loaded.problems == []
        assert_whole(loaded, loaded.step)
        steps.add(loaded.step)
    process.kill()
    process.join()
    assert len(steps) == 12


def test_a_listing_between_two_checkpoints_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, tag="best")
    listed = [[], list_checkpoints(tmp_path, tag="best")]  # the old one is gone, then the new seen
    monkeypatch.setattr(module, "list_checkpoints", lambda *_given, **_named: listed.pop(0))
    assert load_checkpoint(tmp_path, tag="best").step == 1


def _save_for_ever(folder: Path, step: int) -> None:
    torch.set_num_threads(1)
    while True:
        step += 1
        save(folder, step)
        save(folder, step, tag="best")


def test_killed_while_writing_a_whole_checkpoint_remains(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 1, tag="best")
    draw = random.Random(1)
    step = 1
    for _ in range(8):
        process = FORK.Process(target=_save_for_ever, args=(tmp_path, step))
        process.start()
        give_up = time.monotonic() + 20
        while step_now(tmp_path) == step and time.monotonic() < give_up:
            time.sleep(0.002)
        time.sleep(0.03 * draw.random())
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for tag in ("best", "last"):
            loaded = load_checkpoint(tmp_path, tag=tag)
            assert loaded.problems == []
            assert_whole(loaded, loaded.step)
        assert loaded.step > step
        step = loaded.step
    save(tmp_path, 10**6)
    assert not list(tmp_path.glob(".writing-*"))
