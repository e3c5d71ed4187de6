"""`--help` at 80 columns: groups, and sentences that are not cut off."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from deit_transfer.cli.app import COMMANDS, app

ROOT = get_command(app)
LISTED = [name for group in COMMANDS.values() for name in group]
PATHS = [
    (),
    *((name,) for name in LISTED),
    *(
        (name, part)
        for name in LISTED
        for part in getattr(ROOT.commands[name], "commands", {})  # type: ignore[attr-defined]
    ),
]


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.output


def test_every_command_is_in_one_group() -> None:
    assert sorted(LISTED) == sorted(ROOT.commands)  # type: ignore[attr-defined]


def test_the_first_screen_has_the_groups_and_their_sentences() -> None:
    lines = shown().splitlines()
    for title, commands in COMMANDS.items():
        assert f"{title}:" in lines
        for name, sentence in commands.items():
            assert any(line.split() == [name, *sentence.split()] for line in lines)


@pytest.mark.parametrize("words", PATHS, ids=" ".join)
def test_no_sentence_is_cut_off(words: tuple[str, ...]) -> None:
    text = shown(*words)
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    _, _, commands = text.partition("\nCommands:\n")
    assert "..." not in commands


def test_h_is_help() -> None:
    assert CliRunner().invoke(app, ["-h"]).output == CliRunner().invoke(app, ["--help"]).output


def test_recipes_and_models_are_completed() -> None:
    from deit_transfer.cli.options import complete_model, complete_recipe

    assert "finetune/cifar10" in complete_recipe("finetune/ci")
    assert complete_recipe("nope") == []
    assert complete_model("deit_mi") == ["deit_micro", "deit_micro_distilled"]
