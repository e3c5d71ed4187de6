"""The names of the package: one meaning each, docstrings that say what a thing does."""

import ast
from collections import defaultdict
from pathlib import Path

import deit_transfer

PACKAGE = Path(deit_transfer.__file__).parent
TESTS = Path(__file__).parents[1]
BANNED_OPENERS = ("Own", "Hold", "Tell", "Say")
MOST_PARAMETERS = 10


def modules() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_a_public_name_is_defined_in_one_module() -> None:
    """A function of cli/ is a command; it shares the name of the program that it calls."""
    places = defaultdict(list)
    for place, module in modules().items():
        if place.startswith("cli/"):
            continue
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(place)
    assert len(places) > 300
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_docstrings_open_with_what_the_thing_does() -> None:
    found = []
    for place, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or "-"
                if text.split()[0] in BANNED_OPENERS and place != "engine/glibc_malloc.py":
                    found.append(f"{place}: {text.splitlines()[0]}")
    assert found == []


def test_functions_take_few_parameters() -> None:
    found = set()
    for place, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef) and not place.startswith("cli/"):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                names = [name for name in names if name not in ("self", "cls")]
                if len(names) + len(node.args.kwonlyargs) > MOST_PARAMETERS:
                    found.add(f"{place}:{node.name}")
    assert found == set()


def test_the_names_of_tests_fit_a_line() -> None:
    names = [
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 500
    assert [name for name in names if len(name) > 80] == []


def test_only_the_command_line_reads_sys_argv() -> None:
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if "sys.argv" in path.read_text(encoding="utf-8")
    ]
    assert found == ["cli/app.py", "cli/launch.py"]
