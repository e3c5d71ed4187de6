"""Hold docs/tour.md to the code: it names every module, in the paragraph of its package."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli", "run", "recipe", "engine", "models", "data", "analysis", "report")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tour_names_every_module_of_a_package(package: str) -> None:
    text = (ROOT / "docs/tour.md").read_text(encoding="utf-8")
    pieces = re.split(r"^\*\*(\w+)/\*\*|^## ", text, flags=re.MULTILINE)
    told = pieces[pieces.index(package) + 1]
    modules = {path.stem for path in (ROOT / "deit_transfer" / package).rglob("*.py")}
    named = set(re.findall(r"`(\w+)`", told))
    assert sorted(modules - named - {"__init__"}) == []
