"""docs/tour.md follows the code: every module in the tree, every room in its place."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "deit_transfer"
TOUR = (ROOT / "docs/tour.md").read_text(encoding="utf-8")
TREE = TOUR.split("```")[1]
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def room_in_tree(room: str) -> str:
    """The lines of the tree below a room."""
    return re.split(r"^  \w+/ ", TREE.split(f"\n  {room}/ ", 1)[1], maxsplit=1, flags=re.MULTILINE)[
        0
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_the_tree_has_every_module_of_a_room(room: str) -> None:
    modules = {path.stem for path in (PACKAGE / room).rglob("*.py")} - {"__init__"}
    named = set(re.findall(r"\w+", room_in_tree(room)))
    assert sorted(modules - named) == []


def test_the_tree_is_short_and_has_no_module_that_is_gone() -> None:
    assert len(TREE.splitlines()) <= 120
    paths = re.findall(r"`((?:\w+/)+\w+)[.`]", TOUR)
    assert len(paths) > 20
    gone = [p for p in paths if not (PACKAGE / f"{p}.py").exists() and not (ROOT / p).exists()]
    assert [p for p in gone if p.split("/")[0] in ROOMS] == []
