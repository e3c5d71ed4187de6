"""What a person sees and a program reads: two streams, 80 columns, colors on terminals only."""

import json
import re
from pathlib import Path
from signal import SIGINT

import pytest
from program import QUICK, Ended, run_program
from traps import Strike

RESULT_KEYS = {
    "run", "mode", "dataset", "model", "pretrained", "seed", "top1", "top5", "mean_per_class",
    "loss", "images_seen", "epochs", "seconds", "images_per_second",
}  # fmt: skip
SCRATCH = ("scratch", "photos", *QUICK)
ESCAPE = "\x1b"
CURSOR_UP_OR_ERASE = re.compile(r"\x1b\[\d*[AK]")
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "80"}


def plain_screens(text: str) -> bool:
    return ESCAPE not in text and text.isascii() and max(map(len, text.splitlines())) <= 80


def test_json_is_one_object_on_stdout_and_people_read_stderr(finished: Ended) -> None:
    result = finished.json
    assert result.keys() >= RESULT_KEYS
    assert result["mode"] == "scratch"
    assert result["dataset"] == "photos"
    assert result["run"] == "runs/first"
    for figure in ("top1", "top5", "mean_per_class"):
        assert 0 <= result[figure] <= 100
    assert result["top1"] > 50
    assert "Train from scratch: deit_micro on photos" in finished.err
    assert plain_screens(finished.err)


def test_json_is_what_the_run_keeps(workplace: Path, finished: Ended) -> None:
    kept = json.loads((workplace / "runs" / "first" / "result.json").read_text())
    assert finished.json == kept


def test_screens_in_a_file_are_plain_and_80_columns_wide(workplace: Path) -> None:
    ended = run_program(*SCRATCH, "--epochs=3", folder=workplace)
    assert ended.code == 0, ended.err
    assert ended.err == ""
    assert plain_screens(ended.out)
    for expected in (
        "train 22, val 2, test 12",
        "3: cat, dog, owl",
        "nothing (random initialization)",
        "-> 6.25e-5 at batch 8",
        "3 epochs, 9 steps, 66 images seen",
        "  3/3 ",
        "Result: deit_micro on photos",
        "Wilson 95% interval",
    ):
        assert expected in ended.out, expected


def test_quiet_leaves_the_result_only(workplace: Path) -> None:
    ended = run_program(*SCRATCH, "--quiet", folder=workplace)
    assert ended.out.startswith("Result: deit_micro on photos")
    assert ended.err == ""


def test_quiet_json_leaves_stderr_empty(workplace: Path) -> None:
    ended = run_program(*SCRATCH, "--quiet", "--json", folder=workplace)
    assert ended.json.keys() >= RESULT_KEYS
    assert ended.err == ""


def test_a_terminal_gets_colors_and_a_live_bar(workplace: Path) -> None:
    shown = run_program(*SCRATCH, folder=workplace, on_terminal=True, environment=TERMINAL).out
    assert "\x1b[1m" in shown
    assert "img/s" in shown
    assert "━" in shown
    assert CURSOR_UP_OR_ERASE.search(shown)
    visible = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r\n", "\n")
    assert max(len(part) for part in re.split(r"[\r\n]", visible)) <= 80
    # the cursor is given back
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


def test_a_second_ctrl_c_gives_the_cursor_back(workplace: Path) -> None:
    twice = Strike("deit_transfer.training.trainer:Trainer.after_step", 2, signals=(SIGINT, SIGINT))
    shown = run_program(
        *SCRATCH, folder=workplace, on_terminal=True, environment=TERMINAL, prepare=[twice]
    )
    assert shown.code == 130
    assert shown.out.rfind("\x1b[?25h") > shown.out.rfind("\x1b[?25l") >= 0


def test_no_color_is_honored_on_a_terminal(workplace: Path) -> None:
    environment = {**TERMINAL, "NO_COLOR": "1"}
    command = ("plan", *SCRATCH)
    shown = run_program(*command, folder=workplace, on_terminal=True, environment=environment).out
    assert "deit_micro on photos" in shown
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|9[0-7])m", shown)


def test_force_color_colors_a_file_but_draws_no_bar_in_it(workplace: Path) -> None:
    ended = run_program(*SCRATCH, folder=workplace, environment={"FORCE_COLOR": "1"})
    assert ESCAPE in ended.out
    assert not CURSOR_UP_OR_ERASE.search(ended.out)


def test_errors_are_colored_on_terminals_only(workplace: Path) -> None:
    command = ("scratch", "photso")
    shown = run_program(*command, folder=workplace, on_terminal=True, environment=TERMINAL)
    assert "\x1b[1;31mError:\x1b[0m no dataset" in shown.out
    assert ESCAPE not in run_program(*command, folder=workplace).err


def test_a_path_in_an_error_stays_in_one_piece(workplace: Path) -> None:
    path = "nowhere/" + "deep" * 30 + "/run"
    assert path in run_program("evaluate", path, folder=workplace).err


@pytest.mark.parametrize("command", [("recipes", "show", "scratch/digits"), ("recipes", "list")])
def test_a_reader_that_stops_reading_causes_no_traceback(
    workplace: Path, command: tuple[str, ...]
) -> None:
    ended = run_program(*command, folder=workplace, prepare=[close_the_reading_end])
    assert "Traceback" not in ended.err
    assert ended.code in (0, 1)


def close_the_reading_end() -> None:
    import os

    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def test_names_are_text_and_never_markup_or_escapes() -> None:
    from io import StringIO

    from rich.console import Console

    from deit_transfer.cli.console import Output, show_error
    from deit_transfer.errors import DataError

    link = "\x1b]8;;http://evil\x1b\\cat\x1b[31m [bold]dog[/b]"
    shown = r"\x1b]8;;http://evil\x1b\cat\x1b[31m [bold]dog[/b]"
    output = Output()
    output.console = Console(file=StringIO(), force_terminal=True, width=200)
    output.tell(f"note: {link}")
    output.show(link)
    output.warn(link)
    said = output.console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count(shown) == 3
    assert "http://evil\x1b" not in said
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deit_transfer.cli.console.make_console", lambda stderr: output.console)
        show_error(DataError(f"no {link}", hint=f"Try {link}"))
    said = output.console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count(shown) == 5


def test_a_title_with_markup_is_shown_as_it_is() -> None:
    from deit_transfer.cli.console import Output
    from deit_transfer.cli.progress import progress_shown

    with progress_shown(Output(), "asking a[/b]") as progress:
        progress(1, 2)


def test_a_run_whose_name_looks_like_markup_is_resumed(workplace: Path) -> None:
    for more in ((), ("--resume",)):
        ended = run_program(*SCRATCH, "--name=a[/b]", *more, folder=workplace)
        assert ended.code == 0, ended.err
    assert "runs/a[/b] is finished already" in " ".join(ended.out.split())


def test_a_finished_run_names_the_next_commands(workplace: Path) -> None:
    ended = run_program(*SCRATCH, "--name=with next", folder=workplace)
    assert ended.code == 0, ended.err
    assert ended.out.endswith(
        "\nNext:\n"
        "  deit-transfer predict 'runs/with next' photo.jpg\n"
        "  deit-transfer report 'runs/with next'\n"
    )


def test_the_same_run_again_is_said(workplace: Path) -> None:
    seed = "--seed=77"
    first = run_program(*SCRATCH, seed, "--name=once", folder=workplace)
    assert "the same run is in" not in first.out
    again = run_program(*SCRATCH, seed, folder=workplace)
    assert "the same run is in runs/once" in " ".join(again.out.split())


def test_the_first_ctrl_c_is_answered_at_once(workplace: Path) -> None:
    once = Strike("deit_transfer.training.trainer:Trainer.after_step", signals=(SIGINT,))
    ended = run_program(*SCRATCH, "--name=stopped", folder=workplace, prepare=[once])
    assert ended.code == 130
    assert "finishing this step, then saving; Ctrl-C again stops now" in ended.out
    assert "Stopped by SIGINT" in ended.err
