"""Bad input ends in one clear sentence and the documented exit code, and leaves nothing behind."""

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest
import torch
from photos import write_photos
from program import QUICK, Ended, run_program
from safetensors.torch import load_file, save_file
from traps import Strike

USAGE, DATA, WEIGHTS, DISK, STOPPED, CTRL_C = 2, 3, 4, 6, 75, 130
SCRATCH = ("scratch", "photos", *QUICK)
FINETUNE = ("finetune", "photos", *QUICK)


@dataclass(frozen=True)
class Case:
    """Hold a command, and what it must end with and say; `hint` is what to type or do next."""

    command: tuple[str, ...]
    code: int
    said: tuple[str, ...]
    hint: str = ""


def faults_of(case: Case, workplace: Path) -> list[str]:
    """Run the command; return all in which its end is not the case's, and what it printed."""
    before = set((workplace / "runs").rglob("*"))
    ended = run_program(*case.command, folder=workplace)
    error, _, hint = ended.said.partition("Hint: ")
    told = {sentence: sentence in ended.said for sentence in case.said}
    holds = told | {
        f"exit code {case.code}": ended.code == case.code,
        "an empty stdout": ended.out == "",
        "no traceback": "Traceback" not in ended.err,
        "an error in front": error.startswith(("Error: ", "Usage: ")),
        f"the hint {case.hint}": case.hint in hint,
        "an untouched folder of runs": set((workplace / "runs").rglob("*")) == before,
    }
    faults = [f"not: {what}" for what, held in holds.items() if not held]
    return [*faults, str(ended)] if faults else []


NAMES = [
    Case(("scratch", "digtis"), USAGE, ("'digtis'", "Did you mean digits?"), "cifar10, cifar100"),
    Case(("scratch", "./nowhere"), DATA, ("no folder ./nowhere",), "data list"),
    Case(
        (*SCRATCH, "--model=deit_tinny_patch16_224"),
        USAGE,
        ("'deit_tinny_patch16_224'", "deit_micro"),
        "deit_tiny_patch16_224",
    ),
    Case(
        (*SCRATCH, "--recipe=scratch/digit"),
        USAGE,
        ("no recipe 'scratch/digit'", "Did you mean scratch/digits"),
        "recipes list",
    ),
    Case(
        (*SCRATCH, "--recipe=finetune/folder"),
        USAGE,
        ("is for 'finetune', not 'scratch'",),
        "deit-transfer finetune photos",
    ),
    Case(("scrach", "photos"), USAGE, ("Did you mean 'scratch'?",)),
    Case((*SCRATCH, "--epoch=3"), USAGE, ("No such option: --epoch", "--epochs")),
    Case(("recipes", "show", "digit"), USAGE, ("no recipe 'digit'",), "recipes list"),
    Case(("runs", "show", "photos"), DATA, ("photos is not a run folder",), "runs list"),
    Case(("evaluate", "runs/nope"), DATA, ("there is no run in runs/nope",), "runs list"),
]

VALUES = [
    Case((*SCRATCH, "--epochs=ten"), USAGE, ("--epochs",)),
    Case((*SCRATCH, "--epochs=0"), USAGE, ("schedule.epochs: must be greater", "got 0")),
    Case((*SCRATCH, "--lr=1e30"), USAGE, ("optim.peak_lr: must be less than 10", "1e+30")),
    Case((*SCRATCH, "--lr=nan"), USAGE, ("optim.peak_lr", "finite")),
    Case((*SCRATCH, "--seed=-1"), USAGE, ("run.seed", "-1")),
    Case((*SCRATCH, "--workers=-1"), USAGE, ("run.workers", "-1")),
    Case((*SCRATCH, "--device=gpu"), USAGE, ("'gpu'", "auto, cpu, mps, cuda or cuda:N")),
    Case((*SCRATCH, "--precision=fp8"), USAGE, ("'auto', 'fp32', 'bf16' or 'fp16'", "'fp8'")),
    Case((*SCRATCH, "--precision=fp16"), USAGE, ("fp16 trains on CUDA only",), "fp32"),
    Case((*SCRATCH, "--resolution=17"), USAGE, ("17", "the nearest are 16 and 20"), "16"),
    Case((*SCRATCH, "--set=optim.peaklr=1"), USAGE, ("no such setting", "optim.peak_lr")),
    Case((*SCRATCH, "--set=optim"), USAGE, ("section.key=value",), "--set optim."),
    Case((*SCRATCH, "--set=model.freeze=all"), USAGE, ("'all' is no choice", "last-N")),
    Case((*SCRATCH, "--set=augment.policy=rand"), USAGE, ("'randaugment'", "got 'rand'")),
    Case((*SCRATCH, "--set=augment.randaugment=foo"), USAGE, ("'foo'",), "rand-m9-mstd0.5-inc1"),
    Case((*SCRATCH, '--set=data.classes=["cat", "dgo"]'), USAGE, ("no class 'dgo'", "dog")),
    Case((*SCRATCH, "--train-limit=100000"), DATA, ("100000 of the 24",), "--train-limit 24"),
    Case((*SCRATCH, "--fraction=2"), USAGE, ("data.fraction", "got 2.0")),
    Case((*FINETUNE, "--from=none"), USAGE, ("needs weights",), "--from imagenet"),
]


@pytest.mark.parametrize("case", [*NAMES, *VALUES], ids=lambda case: " ".join(case.command))
def test_unknown_names_and_values_are_named_with_their_choices(
    case: Case, workplace: Path, finished: Ended
) -> None:
    assert faults_of(case, workplace) == []


def test_all_three_faults_of_a_recipe_are_listed(workplace: Path, finished: Ended) -> None:
    text = '[optim]\npeak_lr = -1\nnmae = "adamw"\n[schedule]\nepochs = "ten"\n'
    (workplace / "faulty.toml").write_text(f'mode = "scratch"\n{text}')
    faults = ("optim.peak_lr: must be greater than 0", "optim.nmae: no such", "schedule.epochs")
    command = ("scratch", "photos", "--recipe=faulty.toml")
    case = Case(command, USAGE, ("has 3 faults", "Did you mean optim.name", *faults))
    assert faults_of(case, workplace) == []
    checked = run_program("recipes", "check", "faulty.toml", folder=workplace)
    assert checked.code == USAGE
    assert all(fault in checked.said for fault in faults)


def test_a_recipe_that_is_no_toml_is_named_with_the_place(workplace: Path, finished: Ended) -> None:
    (workplace / "broken.toml").write_text('mode = "scratch"\n[optim')
    command = (*SCRATCH, "--recipe=broken.toml")
    assert faults_of(Case(command, USAGE, ("broken.toml", "not valid TOML")), workplace) == []


def without_images(photos: Path) -> None:
    shutil.rmtree(photos / "train" / "dog")
    (photos / "train" / "dog").mkdir()


def with_a_misspelled_class_in_val(photos: Path) -> None:
    shutil.copytree(photos / "train" / "cat", photos / "val" / "catt")


def with_bad_test_images(photos: Path) -> None:
    (photos / "test" / "cat" / "000.png").write_bytes(b"")
    (photos / "test" / "cat" / "001.png").write_bytes(b"<html>404</html>")


def of_one_class(photos: Path) -> None:
    for name in ("dog", "owl"):
        for split in ("train", "test"):
            shutil.rmtree(photos / split / name)


def of_one_image_a_class(photos: Path) -> None:
    for image in photos.glob("*/*/*.png"):
        if image.name != "000.png":
            image.unlink()


def without_folders(photos: Path) -> None:
    (photos / "train" / "cat" / "000.png").rename(photos / "loose.png")
    for split in ("train", "test"):
        shutil.rmtree(photos / split)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_images, ("class folder train/dog holds no image",)),
        (with_a_misspelled_class_in_val, ("'catt' is in val/ but not in train/", "mean cat?")),
        (of_one_class, ("only one class, cat",)),
        (of_one_image_a_class, ("3 images in 3 classes are too few",)),
        (without_folders, ("no class folders, so no labels",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_dataset_is_refused_before_anything_is_written(
    spoil: Callable[[Path], None], said: tuple[str, ...], tmp_path: Path
) -> None:
    spoil(write_photos(tmp_path / "photos", size=16))
    assert faults_of(Case(SCRATCH, DATA, said), tmp_path) == []


def test_a_bad_test_image_ends_the_run_and_is_named(tmp_path: Path) -> None:
    with_bad_test_images(write_photos(tmp_path / "photos", size=16))
    ended = run_program(*SCRATCH, "--name=bad", folder=tmp_path)
    assert ended.code == DATA
    assert "test/cat/000.png: the file is empty" in ended.said
    assert "test/cat/001.png: it is an HTML page" in ended.said
    assert "data.allow_bad=true" in ended.said
    assert not (tmp_path / "runs" / "bad" / "result.json").exists()


def test_a_bad_test_image_counts_as_wrong_where_that_is_asked_for(tmp_path: Path) -> None:
    with_bad_test_images(write_photos(tmp_path / "photos", size=16))
    ended = run_program(*SCRATCH, "--set=data.allow_bad=true", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.json["num_test_images"] == 12
    assert ended.json["top1"] <= 100 * 10 / 12 + 1e-6


def test_a_bad_training_image_is_replaced_and_told(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", size=16)
    whole = (photos / "train" / "dog" / "000.png").read_bytes()
    (photos / "train" / "cat" / "000.png").write_bytes(b"")
    (photos / "train" / "dog" / "000.png").write_bytes(whole[: len(whole) // 2])
    ended = run_program(*SCRATCH, "--set=data.val_fraction=0", "--set=data.select=last",
                        "--epochs=3", "--name=mended", folder=tmp_path)  # fmt: skip
    assert ended.code == 0, ended.err
    shown = " ".join(ended.out.split())
    assert "train/cat/000.png cannot be read" in shown
    assert "train/dog/000.png cannot be read" in shown
    assert "instead" in shown
    log = (tmp_path / "runs" / "mended" / "train.log").read_text()
    assert "train/cat/000.png cannot be read" in log


def test_a_dataset_smaller_than_a_batch_trains(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", counts={"train": 2, "test": 1}, size=16)
    ended = run_program(*SCRATCH, "--batch-size=64", "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.json["steps"] == 2


def test_one_image_a_class_trains_when_nothing_is_held_out(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", counts={"train": 1, "test": 1}, size=16)
    nothing = ("--set=data.val_fraction=0", "--set=data.select=last")
    ended = run_program(*SCRATCH, *nothing, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.json["counts"] == {"train": 3, "test": 3}


class Payload:
    """Ask whoever unpickles this to run a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture(scope="module")
def weights(workplace: Path, finished: Ended) -> Path:
    """Weights files, each with something wrong."""
    sound = workplace / "runs" / "first" / "model.safetensors"
    (workplace / "cut.safetensors").write_bytes(sound.read_bytes()[:-100])
    (workplace / "page.pth").write_bytes(b"<html>404</html>")
    torch.save({"model": {"unknown": torch.zeros(3)}}, workplace / "other.pth")
    whole = (workplace / "other.pth").read_bytes()
    (workplace / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": Payload(workplace / "RAN")}, workplace / "evil.pth")
    (workplace / "evil.pt").write_bytes(pickle.dumps(Payload(workplace / "RAN")))
    save_file({"cls_token": torch.full((1, 1, 96), float("nan"))}, workplace / "nan.safetensors")
    shutil.copytree(workplace / "runs" / "first", workplace / "damaged")
    (workplace / "damaged" / "model.safetensors").write_bytes(sound.read_bytes()[:-1] + b"!")
    return workplace


@pytest.mark.parametrize(
    ("start", "code", "said", "hint"),
    [
        ("missing.pth", WEIGHTS, "nothing at missing.pth", "has cut.pth"),
        ("imagnet", WEIGHTS, "unknown start 'imagnet'", "Did you mean imagenet?"),
        ("imagenet", USAGE, "no published ImageNet weights for deit_micro", "deit_tiny"),
        ("cut.safetensors", WEIGHTS, "cut.safetensors is damaged or incomplete", "again"),
        ("cut.pth", WEIGHTS, "cut.pth is damaged or incomplete", "again"),
        ("page.pth", WEIGHTS, "it is a web page", "state dict"),
        ("other.pth", WEIGHTS, "covers 0.0% of the parameters", "deit_micro"),
        ("nan.safetensors", WEIGHTS, "not finite, in cls_token", "diverged"),
        ("evil.pth", WEIGHTS, "refused and nothing in it was run", "safetensors"),
        ("evil.pt", WEIGHTS, "refused and nothing in it was run", "safetensors"),
        ("photos", WEIGHTS, "photos has no model.safetensors", "not a run's folder"),
        ("damaged", WEIGHTS, "SHA-256", "Copy the run"),
        ("hf-hub:some/thing", WEIGHTS, "HF_HUB_OFFLINE is set", "to score"),
    ],
)
def test_a_start_that_cannot_be_used_is_refused(
    weights: Path, start: str, code: int, said: str, hint: str
) -> None:
    assert faults_of(Case((*FINETUNE, f"--from={start}"), code, (said,), hint), weights) == []
    assert not (weights / "RAN").exists()


def test_imagenet_weights_offline_say_where_they_were_looked_for(
    workplace: Path, finished: Ended
) -> None:
    command = (*FINETUNE, "--from=imagenet", "--model=deit_tiny_patch16_224", "--resolution=224")
    said = ("deit_tiny_patch16_224", "neither in", "HF_HUB_OFFLINE")
    case = Case(command, WEIGHTS, said, "--from path/to/model.safetensors")
    assert faults_of(case, workplace) == []


def test_a_damaged_run_is_not_evaluated(weights: Path) -> None:
    assert faults_of(Case(("evaluate", "damaged"), WEIGHTS, ("SHA-256",)), weights) == []


def test_classes_a_run_never_saw_are_named(workplace: Path, finished: Ended) -> None:
    command = ("evaluate", "runs/first", "digits")
    case = Case(command, DATA, ("not trained on: 0, 1",), "cat, dog, owl")
    assert faults_of(case, workplace) == []


def test_a_teacher_of_other_classes_is_refused(workplace: Path, finished: Ended) -> None:
    write_photos(workplace / "insects", classes=("ant", "bee"), size=16)
    distill = ("--set=distill.teacher=runs/first", "--set=distill.kind=hard")
    command = ("scratch", "insects", *QUICK, "--model=deit_micro_distilled", *distill)
    said = ("knows other classes (cat, dog, owl)", "(ant, bee)")
    assert faults_of(Case(command, WEIGHTS, said, "teacher fit"), workplace) == []


@pytest.mark.parametrize(
    "out", ["file", "file/runs", "/proc/runs"], ids=["a file", "below a file", "/proc"]
)
def test_a_place_that_cannot_be_written_is_said_before_training(
    workplace: Path, finished: Ended, out: str
) -> None:
    (workplace / "file").write_text("")
    case = Case((*SCRATCH, f"--out={out}"), DISK, ("cannot write to",), "--out")
    assert faults_of(case, workplace) == []


def test_a_name_that_is_taken_is_refused_with_the_way_on(workplace: Path, finished: Ended) -> None:
    taken = Case((*SCRATCH, "--name=first"), USAGE, ("a run in runs/first already",), "--resume")
    assert faults_of(taken, workplace) == []
    (workplace / "runs" / "mine").mkdir()
    (workplace / "runs" / "mine" / "thesis.txt").write_text("years of work")
    for flags in (("--name=mine",), ("--name=mine", "--resume")):
        said = ("runs/mine exists already, and is no run",)
        assert faults_of(Case((*SCRATCH, *flags), USAGE, said, "--name"), workplace) == []
    assert (workplace / "runs" / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--lr=0.3", "optim.peak_lr was 0.05 and is 0.3"),
        ("--set=augment.mixup=0", "augment.mixup was 0.8 and is 0"),
        ("--train-limit=12", "data.train_limit was None and is 12"),
    ],
)
def test_resuming_with_another_recipe_names_what_changed(
    workplace: Path, finished: Ended, change: str, said: str
) -> None:
    command = (*SCRATCH, "--epochs=6", "--lr=0.05", "--name=first", "--resume", change)
    case = Case(command, USAGE, ("runs/first was started with another", said))
    assert faults_of(case, workplace) == []


def test_resuming_on_other_images_says_so(workplace: Path, finished: Ended) -> None:
    write_photos(workplace / "more", size=20)
    command = ("scratch", "more", *QUICK, "--epochs=6", "--lr=0.05", "--name=first", "--resume")
    case = Case(command, USAGE, ("data.dataset was", "photos and is", "more"))
    assert faults_of(case, workplace) == []


def test_resuming_with_a_retrained_teacher_is_refused(workplace: Path, finished: Ended) -> None:
    shutil.copytree(workplace / "runs" / "first", workplace / "teacher")
    command = (*SCRATCH, "--model=deit_micro_distilled", "--set=distill.teacher=teacher",
               "--set=distill.kind=hard", "--name=retaught", "--quiet")  # fmt: skip
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0, ended.err
    weights = workplace / "teacher" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, weights)
    said = ("runs/retaught was started with another", "the weights have changed")
    assert faults_of(Case((*command, "--resume"), USAGE, said), workplace) == []


def test_json_keeps_stdout_empty_when_there_is_nothing_to_tell(workplace: Path) -> None:
    for command in (("scratch", "nowhere"), ("evaluate", "nowhere"), ("compare", "nowhere")):
        ended = run_program(*command, "--json", folder=workplace)
        assert ended.code in (USAGE, DATA)
        assert ended.out == ""


def test_a_check_tells_programs_what_is_wrong_and_exits_3(tmp_path: Path) -> None:
    with_bad_test_images(write_photos(tmp_path / "photos", size=16))
    ended = run_program("data", "check", "photos", "--json", folder=tmp_path)
    assert ended.code == DATA
    assert len(ended.json["problems"]) == 2
    assert "photos has 2 problems" in ended.said


@pytest.mark.parametrize(("signum", "code"), [(SIGINT, CTRL_C), (SIGTERM, STOPPED)])
def test_evaluation_is_stopped_by_signals(
    workplace: Path, finished: Ended, signum: Signals, code: int
) -> None:
    strike = Strike("deit_transfer.evaluation.predictor:predict_split", signals=(signum,))
    ended = run_program("evaluate", "runs/first", folder=workplace, prepare=[strike])
    assert ended.code == code
    assert f"Stopped by {signum.name}" in ended.err
    assert "--resume" not in ended.err


def test_ctrl_c_outside_training_exits_130(workplace: Path) -> None:
    strike = Strike("deit_transfer.data.check:check_dataset", signals=(SIGINT,))
    ended = run_program("data", "check", "photos", folder=workplace, prepare=[strike])
    assert ended.code == CTRL_C
    assert "Traceback" not in ended.err


def fail_unexpectedly() -> None:
    import tempfile

    from deit_transfer.runs import listing

    tempfile.tempdir = None  # what the server of processes found is kept otherwise

    def describe_runs(_out: Path) -> None:
        raise ZeroDivisionError("one by nothing")

    listing.describe_runs = describe_runs


def test_an_unforeseen_error_says_what_to_report(workplace: Path, tmp_path: Path) -> None:
    temporary = {"TMPDIR": str(tmp_path)}
    trap = [fail_unexpectedly]
    ended = run_program("runs", "list", folder=workplace, prepare=trap, environment=temporary)
    assert ended.code == 1
    assert "unexpected ZeroDivisionError: one by nothing" in ended.said
    assert "Traceback" not in ended.err
    (file,) = tmp_path.glob("deit-transfer-*.txt")
    assert f"open an issue with the file that holds the traceback, {file}" in ended.said
    text = file.read_text()
    assert text.startswith("deit-transfer runs list\n")
    assert "in describe_runs" in text
    assert text.rstrip().endswith("ZeroDivisionError: one by nothing")


def test_an_unforeseen_error_is_printed_where_that_is_asked_for(
    workplace: Path, tmp_path: Path
) -> None:
    asked = {"DEIT_TRANSFER_TRACEBACK": "1", "TMPDIR": str(tmp_path)}
    trap = [fail_unexpectedly]
    ended = run_program("runs", "list", folder=workplace, prepare=trap, environment=asked)
    assert ended.code == 1
    assert "Traceback (most recent call last)" in ended.err
    assert list(tmp_path.iterdir()) == []
