"""How errors read, over the whole program: all alike, whoever wrote them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deit_transfer
from deit_transfer import errors

PACKAGE = Path(deit_transfer.__file__).parent
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
COMMANDS = ("deit-transfer ", "`deit-transfer ", "pip ")


def written(node: ast.expr | None) -> list[str]:
    """Return what a text may be, as it stands in the code, with "*" where a value comes in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value] if node.value else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(p.value if isinstance(p, ast.Constant) else "*" for p in node.values)]
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in written(value)]
    if isinstance(node, ast.IfExp):
        return written(node.body) + written(node.orelse)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return written(node.func.value)  # such as "...".strip()
    return []


def texts(tree: ast.Module, place: str) -> Iterator[tuple[str, str, str]]:
    """Yield (place, kind, text) of each error's message and hint that stand in the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in OURS:
            hints = [keyword.value for keyword in node.keywords if keyword.arg == "hint"]
            for kind, given in [("message", n) for n in node.args] + [("hint", n) for n in hints]:
                yield from ((f"{place}:{node.lineno}", kind, text) for text in written(given))


ALL = [
    found
    for path in sorted(PACKAGE.rglob("*.py"))
    for found in texts(ast.parse(path.read_text()), str(path.relative_to(PACKAGE)))
]


def test_there_are_errors_to_look_at():
    assert len(ALL) > 300


@pytest.mark.parametrize("kind", ["message", "hint"])
def test_errors_are_written_alike(kind):
    """ "Error: there is no x" and "Hint: Try y"; names such as CIFAR-10 keep their capitals."""
    odd = []
    for place, own, text in ALL:
        if own != kind:
            continue
        first = text.split()[0]
        small, capital = first.islower(), first[:1].isupper() and first[1:].islower()
        begins_badly = capital if kind == "message" else small and not text.startswith(COMMANDS)
        if begins_badly or text.endswith("."):
            odd.append((place, text))
    assert odd == []
