"""One folder for the tests of commands: images, a finished run on them, and other images."""

from pathlib import Path

import pytest
from photos import write_photos
from program import QUICK, Ended, run_program


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds photos/, pairs/ (two of the classes, in other order), and runs/first."""
    folder = tmp_path_factory.mktemp("cli")
    write_photos(folder / "photos", size=16)
    for number, name in ((2, "owl"), (0, "cat")):  # the hue of each class is that of photos/
        write_photos(folder / f"hues{number}", classes=("cat", "dog", "owl"), size=16)
        (folder / f"hues{number}" / "test" / name).rename(_made(folder / "pairs") / name)
    return folder


@pytest.fixture(scope="session")
def finished(workplace: Path) -> Ended:
    """What the run runs/first printed with --json; it knows the photos well."""
    command = ("scratch", "photos", *QUICK, "--epochs=6", "--lr=0.05", "--name=first", "--json")
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="session")
def distilled(workplace: Path, finished: Ended) -> Ended:
    """What the run runs/pupil printed with --json: a distilled network, taught by runs/first."""
    command = ("scratch", "photos", *QUICK, "--model=deit_micro_distilled", "--epochs=4")
    taught = ("--lr=0.05", "--teacher=runs/first", "--name=pupil", "--json")
    ended = run_program(*command, *taught, folder=workplace)
    assert ended.code == 0, ended.err
    return ended


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
