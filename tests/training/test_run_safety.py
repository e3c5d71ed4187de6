"""Full disks, numbers that are none, memory, and many processes at one folder: nothing is lost."""

import json
import os
from pathlib import Path
from signal import SIGKILL

import pytest
from incidents import NotANumber, OutOfMemory, SmallDisk, every_score_is_worse, nothing_to_decide
from photos import write_photos
from program import QUICK, run_program, start_program
from traps import Strike

from deit_transfer.engine.checkpoint import load_checkpoint

COMMAND = ("scratch", "photos", *QUICK, "--quiet", "--set=optim.ema=false")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and an undisturbed run, runs/whole."""
    folder = tmp_path_factory.mktemp("safety")
    write_photos(folder / "photos", size=16)
    ended = run_program(*COMMAND, "--name=whole", folder=folder)
    assert ended.code == 0, ended.err
    return folder


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def status(run: Path) -> str:
    return json.loads((run / "status.json").read_text())["state"]


def test_a_full_disk_ends_the_run_and_leaves_its_last_checkpoint_whole(place: Path) -> None:
    # the optimizer's moments are there after the first step, and no longer fit
    full = run_program(*COMMAND, "--name=full", folder=place, prepare=[SmallDisk(3_000_000)])
    run = place / "runs" / "full"
    assert full.code == 6
    assert "cannot be written" in full.said
    assert "Traceback" not in full.err
    assert load_checkpoint(run / "checkpoints").step == 0
    assert status(run) == "failed"
    resumed = run_program(*COMMAND, "--name=full", "--resume", folder=place)
    assert resumed.code == 0, resumed.err
    assert weights(run) == weights(place / "runs" / "whole")


def test_a_disk_that_is_full_from_the_start_leaves_no_half_run(place: Path) -> None:
    full = run_program(*COMMAND, "--name=crammed", folder=place, prepare=[SmallDisk(500)])
    assert full.code == 6
    assert "no room" in full.said
    assert not (place / "runs" / "crammed" / "recipe.toml").exists()
    listed = run_program("runs", "list", "--json", folder=place)
    assert "crammed" not in {row["run"] for row in listed.json["runs"]}
    resumed = run_program(*COMMAND, "--name=crammed", "--resume", folder=place)
    assert resumed.code == 0, resumed.err


def test_a_diverged_run_says_where_and_exits_5(place: Path) -> None:
    ended = run_program(*COMMAND, "--name=diverged", folder=place, prepare=[NotANumber(5)])
    assert ended.code == 5
    assert "step 4 is not finite: loss nan" in ended.said
    assert "learning rate" in ended.said
    run = place / "runs" / "diverged"
    incident = json.loads((run / "nonfinite.json").read_text())
    assert incident["step"] == 4
    assert incident["epoch"] == 2
    assert incident["images"][0].startswith("train/")
    assert not (run / "result.json").exists()


def test_a_skipped_step_is_counted(place: Path) -> None:
    skip = "--set=run.nonfinite=skip"
    ended = run_program(*COMMAND, skip, "--name=skip", folder=place, prepare=[NotANumber(5)])
    assert ended.code == 0, ended.err
    result = json.loads((place / "runs" / "skip" / "result.json").read_text())
    assert result["skipped_steps"] == 1
    assert result["images_seen"] == 44


def test_a_rollback_keeps_what_was_counted_and_the_best_epoch(place: Path) -> None:
    ended = run_program(
        *COMMAND,
        "--set=run.nonfinite=rollback",
        "--name=rollback",
        folder=place,
        prepare=[NotANumber(5), every_score_is_worse],
    )
    assert ended.code == 0, ended.err
    run = place / "runs" / "rollback"
    result = json.loads((run / "result.json").read_text())
    assert result["selected_epoch"] == 1
    assert result["images_seen"] == 44
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]


def test_memory_that_fits_fewer_images_is_used_and_the_batch_stays(place: Path) -> None:
    ended = run_program(*COMMAND, "--name=tight", folder=place, prepare=[OutOfMemory(4)])
    assert ended.code == 0, ended.err
    result = json.loads((place / "runs" / "tight" / "result.json").read_text())
    assert (result["steps"], result["images_seen"]) == (6, 44)


def test_memory_that_fits_no_image_exits_6(place: Path) -> None:
    ended = run_program(*COMMAND, "--name=none", folder=place, prepare=[OutOfMemory(0)])
    assert ended.code == 6
    assert "out of memory at one image" in ended.said


def test_a_folder_in_use_is_refused_and_the_owner_named(place: Path) -> None:
    long = (*COMMAND, "--epochs=2000", "--name=busy")
    running = start_program(*long, folder=place)
    running.wait_for((place / "runs" / "busy" / "metrics.jsonl").exists)
    second = run_program(*long, "--resume", folder=place)
    assert second.code == 7
    assert f"in use by process {running.process.pid}" in second.said
    assert states(place)["busy"] == "running"
    running.send(SIGKILL)
    assert running.end().code == -SIGKILL
    assert states(place)["busy"] == "killed"


def states(place: Path) -> dict[str, str]:
    rows = run_program("runs", "list", "--json", folder=place).json["runs"]
    return {row["run"]: row["state"] for row in rows}


def test_twenty_runs_started_at_once_have_twenty_folders(place: Path) -> None:
    stop = Strike("deit_transfer.training.train:_train")
    started = [
        start_program(*COMMAND, "--seed=20", folder=place, prepare=[nothing_to_decide, stop])
        for _ in range(20)
    ]
    assert [running.end().code for running in started] == [-SIGKILL] * 20
    folders = list((place / "runs" / "photos").glob("scratch-deit_micro-seed20*"))
    assert len(folders) == 20
    owners = {json.loads((run / "status.json").read_text())["pid"] for run in folders}
    assert owners == {running.process.pid for running in started}
    assert os.getpid() not in owners


def test_of_runs_started_at_once_by_one_name_one_gets_it(place: Path) -> None:
    started = [start_program(*COMMAND, "--name=wanted", folder=place) for _ in range(4)]
    ended = [running.end() for running in started]
    assert sorted(e.code for e in ended) == [0, 2, 2, 2]
    refused = next(e for e in ended if e.code == 2)
    assert "already" in refused.said
    assert weights(place / "runs" / "wanted") == weights(place / "runs" / "whole")
