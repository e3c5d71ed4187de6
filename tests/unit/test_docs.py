"""The pages name what is there: tests by their names, and each other by working links."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").glob("*.md")]
)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def defined(path: Path) -> set[str]:
    """Return the tests of a file as they are named on a command line: test, or Class::test."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            inside = (part for part in node.body if isinstance(part, ast.FunctionDef))
            found |= {f"{node.name}::{part.name}" for part in inside}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


def test_the_tests_that_pages_name_are_there() -> None:
    named = [found for page in PAGES for found in NAMED_TEST.findall(page.read_text("utf-8"))]
    assert len(named) > 10
    missing = [f"{file}{name}" for file, name in named if name[2:] not in defined(ROOT / file)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
