"""Mistakes in flags, recipes, names and paths are answered before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from photos import write_photos

PROBE = """
import sys
from deit_transfer.cli.app import main
sys.argv = ["deit-transfer", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    print("ENDED", stop.code, *[name for name in ("torch", "timm", "scipy") if name in sys.modules])
"""
LONG = "a" * 300


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early")
    write_photos(folder / "photos", counts={"train": 2, "test": 1}, size=8)
    (folder / "runs" / "taken").mkdir(parents=True)
    (folder / "mine.yaml").write_text("mode: scratch\n")
    (folder / "tiny.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("scratch photos --set optim.lr=1", 2, "optim.lr: no such setting"),
        ("scratch photos --epochs 0 --nproc 2", 2, "schedule.epochs: must be greater"),
        ("compare photos --set optim.lr=1", 2, "optim.lr: no such setting"),
        ("epochs photos --grid 1,2 --lr 99", 2, "optim.peak_lr: must be less"),
        ("sweep photos --grid optim.peak_lr=1 --seed -1", 2, "run.seed: must be greater"),
        ("finetune photo", 2, "Did you mean photos?"),
        ("scratch cifar01", 2, "Did you mean cifar10"),
        ("plan scratch photo", 2, "Did you mean photos?"),
        ("compare photo", 2, "Did you mean photos?"),
        ("data check photo", 2, "Did you mean photos?"),
        ("evaluate deit_micro photo", 2, "Did you mean photos?"),
        ("scratch photos --name taken", 2, "runs/taken exists already"),
        ("compare photos --name taken", 2, "runs/taken exists already"),
        ("scratch photos --name ../x", 2, "--name '../x' is not the name of a folder below"),
        ("scratch photos --name /x", 2, "--name '/x' is not the name of a folder below"),
        (f"scratch photos --name {LONG}", 2, "--name is too long"),
        ("scratch photos --recipe mine.yaml", 2, "recipes are TOML, and mine.yaml is a .yaml"),
        ("scratch photos --recipe nope", 2, "there is no recipe 'nope'"),
        ("predict photos/x.jpg photos", 3, "there is no run in photos/x.jpg"),
        ("predict photos photos", 3, "photos is not a run folder"),
        ("predict deit_micro nope.jpg", 3, "there is no nope.jpg"),
        ("disagree runs/a runs/b", 3, "there is no run in runs/a"),
        ("runs compare a b", 3, "there is no run in a"),
        ("runs clean nope", 3, "there is no folder nope"),
        ("export nope --to timm", 3, "there is no run in nope"),
        ("export nope --to onx", 2, "choose from timm, hf, deit, onnx, onnx-int8, torch"),
        ("export nope --to hf --raw", 2, "--raw is for ONNX"),
        ("card nope", 3, "there is no run in nope"),
        ("push nope ants", 2, "'ants' is not the name of a repository"),
        ("push nope me/ants", 3, "there is no run in nope"),
        ("report nope", 3, "there is no folder nope"),
        ("train photos", 2, "there is no command 'train'. Did you mean finetune?"),
    ],
)
def test_a_mistake_is_answered_without_torch(
    place: Path, command: str, code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command.split()],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert said in " ".join(done.stderr.split())
    assert done.stdout.splitlines()[-1].split() == ["ENDED", str(code)]
    assert [path.name for path in (place / "runs").iterdir()] == ["taken"]


def test_home_is_expanded_where_the_shell_leaves_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deit_transfer.cli.options import expand_home

    monkeypatch.setenv("HOME", "/home/ada")
    for given, expanded in {
        "~/photos": "/home/ada/photos",
        "~": "/home/ada",
        "deit_micro=~/a.pth": "deit_micro=/home/ada/a.pth",
        "hf:~/birds": "hf:/home/ada/birds",
        "a~/b": "a~/b",
        "~backup": "~backup",
    }.items():
        assert expand_home(given) == expanded
        assert expand_home([Path(given)]) == [Path(expanded)]
    assert expand_home(None) is None


def test_every_option_that_takes_a_path_expands_home() -> None:
    from deit_transfer.cli.app import app
    from deit_transfer.cli.options import expand_home

    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    found = {
        (command.name, name): annotation.__metadata__[0].callback
        for group in groups
        for command in group.registered_commands
        for name, annotation in get_type_hints(command.callback, include_extras=True).items()
        if "Path" in str(get_args(annotation)[:1])
    }
    assert len(found) > 30
    assert {place for place, callback in found.items() if callback is not expand_home} == set()
