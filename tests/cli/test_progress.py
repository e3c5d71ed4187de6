"""What is shown while a dataset is fetched, unpacked or read."""

import io
import re

import pytest
from rich.console import Console

from deit_transfer.cli.console import Output
from deit_transfer.cli.progress import Pace, WaitingLines, amount, progress_shown
from deit_transfer.cli.screens import TrainingScreen


class Clock:
    """Tell a time that the test sets."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    """Say that it is a terminal."""

    def isatty(self):
        return True


def test_amounts_are_in_units_people_read():
    assert amount(12_300_000, 163_000_000, "MB") == "12 of 163 MB"
    assert amount(12_300_000, 0, "MB") == "12 MB"
    assert amount(1200, 60000, "images") == "1,200 of 60,000 images"


def test_the_pace_leaves_out_what_lay_there_already():
    clock = Clock()
    pace = Pace(clock)
    assert pace.left_s(80, 100) is None  # a download goes on at 80
    clock.seconds = 10.0
    assert pace.left_s(90, 100) == pytest.approx(10.0)
    assert pace.left_s(0, 500) is None  # another piece of work
    clock.seconds = 20.0
    assert pace.left_s(100, 500) == pytest.approx(40.0)
    assert pace.left_s(700, 500) is None


def test_plain_lines_come_now_and_then():
    clock, said = Clock(), []
    lines = WaitingLines(said.append, every_s=10.0, now=clock)
    for second in range(25):
        clock.seconds = float(second)
        lines.show("preparing cifar10", second * 10**6, 163 * 10**6, "MB")
    assert said == [
        "preparing cifar10: 10 of 163 MB, 2m33s left",  # 153 s at a megabyte a second
        "preparing cifar10: 20 of 163 MB, 2m23s left",
    ]


def on_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    output = Output()
    output.console = Console(file=Terminal(), force_terminal=True, width=80, highlight=False)
    return output


def test_a_terminal_has_a_bar_with_amounts(monkeypatch):
    output = on_terminal(monkeypatch)
    with progress_shown(output, "preparing cifar10", unit="MB") as show:
        show(50 * 10**6, 100 * 10**6)
        show(10 * 10**6, 400 * 10**6)
    drawn = plain(output)
    assert "preparing cifar10" in drawn
    assert "10 of 400 MB" in drawn


def test_a_training_screen_shows_the_dataset_being_fetched(monkeypatch):
    output = on_terminal(monkeypatch)
    with TrainingScreen(output) as screen:
        screen.loading("cifar10", 20 * 10**6, 163 * 10**6)
        screen._progress.refresh()
    assert re.search(r"preparing cifar10 .* 20 of 163 MB", plain(output))


def test_quiet_shows_nothing(monkeypatch):
    output = on_terminal(monkeypatch)
    output.quiet = True
    with progress_shown(output, "reading", unit="images") as show:
        show(1, 2)
    assert plain(output).strip() == ""


def plain(output):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.console.file.getvalue())
