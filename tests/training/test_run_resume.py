"""Kill real training processes at every kind of moment: what they leave must not show it.

A run that was killed, however often, and resumed must end in the same bytes of weights and the
same records as one that was left alone. All runs here distill from a teacher, through the
distillation token, with Mixup and CutMix, an average of the weights, drop-path, RandAugment and
accumulated gradients.
"""

import hashlib
import json
import random
import time
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1
from typing import Any

import pytest
from incidents import StuckLoader
from photos import write_photos
from program import QUICK, Prepare, run_program, start_program
from traps import Strike

TRAINER = "deit_transfer.training.trainer:Trainer"
CHECKPOINT = "deit_transfer.engine.checkpoint"
DECODE = "deit_transfer.data.pipeline.decode_cache"
RESULT = "deit_transfer.training.final_eval"
RUN_FOLDER = "deit_transfer.runs.folder:RunFolder"
TIMES = {"seconds", "images_per_second", "data_wait_percent"}

COMMAND = (
    "scratch",
    "photos",
    *QUICK,
    "--model=deit_micro_distilled",
    "--epochs=3",
    "--set=data.val_fraction=0.25",
    "--set=distill.teacher=runs/teacher",
    "--set=distill.kind=hard",
    "--set=schedule.micro_batch_size=3",
    "--set=optim.peak_lr=0.02",
    "--set=optim.ema_decay=0.8",
    "--quiet",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a teacher that knows them, and an uninterrupted run, runs/whole."""
    folder = tmp_path_factory.mktemp("resume")
    write_photos(folder / "photos", counts={"train": 8, "test": 4}, size=16)
    teacher = ("scratch", "photos", *QUICK, "--epochs=6", "--lr=0.05", "--name=teacher", "--quiet")
    for command in (teacher, (*COMMAND, "--name=whole")):
        ended = run_program(*command, folder=folder)
        assert ended.code == 0, ended.err
    return folder


def run_to_end(place: Path, name: str, *arguments: str, prepare: tuple[Prepare, ...] = ()) -> Any:
    return run_program(
        *COMMAND, f"--name={name}", "--resume", *arguments, folder=place, prepare=prepare
    )


def traces(run: Path) -> dict[str, Any]:
    """Everything that must not depend on interruptions."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = max((run / "checkpoints").glob("last-*"), key=lambda path: path.name.split("-")[1])
    result = json.loads((run / "result.json").read_text())
    told = {"run", "train_seconds", *TIMES}
    return {
        "weights": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        "last": hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest(),
        "average": hashlib.sha256((last / "ema.safetensors").read_bytes()).hexdigest(),
        "records": [{key: r[key] for key in r if key not in TIMES} for r in records],
        "result": {key: result[key] for key in result if key not in told},
    }


def test_the_whole_run_is_worth_comparing_with(place: Path) -> None:
    whole = traces(place / "runs" / "whole")
    assert [record["epoch"] for record in whole["records"]] == [1, 2, 3]
    losses = [record["loss"] for record in whole["records"]]
    assert losses[-1] < losses[0]
    assert whole["last"] != whole["average"]
    assert whole["result"]["teacher_top1"] > 50
    assert {"ema_loss", "heads", "teacher_agreement"} <= whole["records"][0].keys()


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        pytest.param(
            "in-the-steps",
            [
                Strike(f"{TRAINER}.after_step", 2),
                Strike(f"{TRAINER}.after_step", 6),
                Strike("deit_transfer.engine.loop:train_step", 3, after=True),
            ],
            id="mid-epoch",
        ),
        pytest.param(
            "at-the-edge",
            [
                Strike(f"{TRAINER}._end_epoch", 1),
                Strike(f"{TRAINER}._end_epoch", 2, after=True),
                Strike(f"{RUN_FOLDER}.write_metrics", 1),
            ],
            id="epoch-edge",
        ),
        pytest.param(
            "while-scoring",
            [
                Strike("deit_transfer.training.trainer:head_scores"),
                Strike(f"{TRAINER}.predict", 2),
                Strike(f"{TRAINER}._keep_best", 2, after=True),
            ],
            id="evaluation",
        ),
        pytest.param(
            "while-saving",
            [
                Strike(f"{CHECKPOINT}:_flush", 2),
                Strike(f"{CHECKPOINT}:_write_manifest", 2),
                Strike(f"{CHECKPOINT}:_drop_old", 2),
                Strike(f"{CHECKPOINT}:_remove", 1, after=True),
            ],
            id="checkpoint-write",
        ),
        pytest.param(
            "at-the-end",
            [
                Strike(f"{RESULT}:write_model_files"),
                Strike(f"{RESULT}:write_predictions"),
                Strike(f"{RESULT}:write_predictions", after=True),
            ],
            id="result",
        ),
        pytest.param(
            "at-birth",
            [
                Strike("deit_transfer.runs.folder:create_run_folder", after=True),
                Strike(f"{RUN_FOLDER}.write_text", 1, after=True),
                Strike(f"{RUN_FOLDER}.write_text", 3, after=True),
                Strike("deit_transfer.training.train:record_setup", after=True),
            ],
            id="beginning",
        ),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    place: Path, name: str, kills: list[Strike]
) -> None:
    for kill in kills:
        assert run_to_end(place, name, prepare=(kill,)).code == -SIGKILL, kill
    ended = run_to_end(place, name)
    assert ended.code == 0, ended.err
    assert traces(place / "runs" / name) == traces(place / "runs" / "whole")
    # a write that is cut off leaves the checkpoint before it the newest, not a damaged one
    assert "checkpoint problem" not in (place / "runs" / name / "train.log").read_text()
    left_over = [path.name for path in (place / "runs" / name).rglob(".*")]
    assert not left_over


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fresh_run_of_the_same_command_ends_in_the_same_bytes(place: Path, workers: int) -> None:
    name = f"fresh-{workers}"
    ended = run_program(*COMMAND, f"--name={name}", f"--workers={workers}", folder=place)
    assert ended.code == 0, ended.err
    assert traces(place / "runs" / name) == traces(place / "runs" / "whole")


def test_two_workers_and_two_kills_end_in_the_same_bytes(place: Path) -> None:
    for kill in (Strike(f"{TRAINER}.after_step", 3), Strike(f"{TRAINER}.predict", 2, after=True)):
        killed = run_to_end(place, "workers", "--workers=2", prepare=(kill,))
        assert killed.code == -SIGKILL
    # at once: workers that outlive their run for a moment must not keep its folder locked
    ended = run_to_end(place, "workers", "--workers=2")
    assert ended.code == 0, ended.err
    assert traces(place / "runs" / "workers") == traces(place / "runs" / "whole")


@pytest.mark.parametrize(
    ("name", "strike", "code"),
    [
        ("stepping", Strike(f"{TRAINER}.after_step", signals=(SIGTERM,)), 75),
        ("scoring", Strike(f"{TRAINER}.predict", signals=(SIGINT,)), 130),
        # the first images that are decoded are those on which the teacher is checked
        ("decoding", Strike(f"{DECODE}:_decode_all", 2, signals=(SIGUSR1,)), 75),
    ],
)
def test_a_signalled_run_saves_says_how_to_go_on_and_does(
    place: Path, name: str, strike: Strike, code: int
) -> None:
    (signum,) = strike.signals
    stopped = run_to_end(place, name, prepare=(strike,))
    assert stopped.code == code
    assert f"Stopped by {signum.name}" in stopped.err
    assert "--resume" in stopped.err
    assert not (place / "runs" / name / "result.json").exists()
    status = json.loads((place / "runs" / name / "status.json").read_text())
    assert status["state"] == "stopped"
    ended = run_to_end(place, name)
    assert ended.code == 0, ended.err
    assert traces(place / "runs" / name) == traces(place / "runs" / "whole")


@pytest.mark.parametrize(
    "moment",
    [
        "deit_transfer.training.train:load_splits",
        "deit_transfer.training.setup:images_per_second",
        f"{DECODE}:_decode_all",
    ],
    ids=["loading", "timing", "checking the teacher"],
)
def test_a_signal_before_the_run_has_a_folder_leaves_nothing(place: Path, moment: str) -> None:
    stopped = run_to_end(place, "early", prepare=(Strike(moment, signals=(SIGTERM,)),))
    assert stopped.code == 75
    assert not (place / "runs" / "early").exists()


def test_a_second_ctrl_c_ends_at_once_and_the_run_can_still_go_on(place: Path) -> None:
    twice = Strike(f"{TRAINER}.after_step", 3, signals=(SIGINT, SIGINT))
    assert run_to_end(place, "twice", prepare=(twice,)).code == 130
    run = place / "runs" / "twice"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last-00000000"]
    assert run_to_end(place, "twice").code == 0
    assert traces(run) == traces(place / "runs" / "whole")


def test_a_signal_from_another_process_stops_a_long_run(place: Path) -> None:
    running = start_program(*COMMAND, "--epochs=500", "--name=long", folder=place)
    running.wait_for((place / "runs" / "long" / "metrics.jsonl").exists)
    running.send(SIGTERM)
    assert running.end(seconds=30).code == 75


def test_a_run_that_waits_for_images_in_vain_can_be_stopped_and_resumed(place: Path) -> None:
    running = start_program(
        *COMMAND, "--name=stuck", "--workers=2", folder=place, prepare=(StuckLoader(),)
    )
    running.wait_for((place / "runs" / "stuck" / "metrics.jsonl").exists)
    time.sleep(1)  # it waits for the first images of the second epoch
    running.send(SIGTERM)
    assert running.end(seconds=60).code == 75
    ended = run_to_end(place, "stuck")
    assert ended.code == 0, ended.err
    assert traces(place / "runs" / "stuck") == traces(place / "runs" / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--workers=0",),
        ("--workers=2",),
        ("--set=distill.kind=soft", "--workers=2"),
        ("--set=distill.through=class", "--model=deit_micro", "--set=augment.erasing=0.5"),
        ("--set=augment.repeats=2", "--set=run.precision=bf16"),
        ("--set=schedule.progressive=[[8, 0.4]]", "--set=optim.name=lamb"),
        ("--set=data.select=last", "--set=optim.ema=false", "--set=compat=deit"),
        ("--set=data.decode_cache_mb=0", "--set=optim.name=sgd", "--workers=2"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_kills_at_random_moments_do_not_show(
    place: Path, arguments: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    number = hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    longer = (*arguments, "--epochs=16")
    whole = run_to_end(place, f"whole-{number}", *longer)
    assert whole.code == 0, whole.err
    moments = random.Random(number)
    kills = 0
    for _ in range(40):
        running = start_program(
            *COMMAND, f"--name=random-{number}", "--resume", *longer, folder=place
        )
        time.sleep(moments.uniform(0.1, 1.0))
        running.process.kill()
        ended = running.end()
        if ended.code == 0:
            break
        assert ended.code == -SIGKILL, ended.err
        kills += 1
    assert kills
    ended = run_to_end(place, f"random-{number}", *longer)
    assert ended.code == 0, ended.err
    runs = place / "runs"
    if "--set=optim.ema=false" in arguments:
        for run in (runs / f"random-{number}", runs / f"whole-{number}"):
            for last in (run / "checkpoints").glob("last-*"):
                (last / "ema.safetensors").write_bytes(b"")
    assert traces(runs / f"random-{number}") == traces(runs / f"whole-{number}")
