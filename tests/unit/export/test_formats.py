"""What cannot be exported is refused before anything is read."""

from pathlib import Path

import pytest

from deit_transfer.errors import UsageError
from deit_transfer.export.formats import (
    FORMATS,
    check_export,
    check_packages,
    export_path,
    find_format,
    loading_lines,
)


def test_a_missing_package_is_named_with_the_command() -> None:
    with pytest.raises(UsageError, match="--to onnx needs no_such_package") as caught:
        check_packages(("json", "no_such_package"), extra="onnx", what="--to onnx")
    assert caught.value.hint == "pip install 'deit-transfer[onnx]'"


def test_an_unknown_format_is_answered_with_the_choices() -> None:
    with pytest.raises(UsageError, match="choose from timm, hf") as caught:
        find_format("onx")
    assert "onnx" in caught.value.hint


def test_raw_is_for_onnx_only() -> None:
    with pytest.raises(UsageError, match="--raw is for ONNX"):
        check_export(Path("run"), "timm", raw=True)


@pytest.mark.parametrize("name", FORMATS)
def test_the_lines_to_copy_are_python(name: str) -> None:
    for raw in (False, True):
        lines = loading_lines(FORMATS[name], Path("it's/here"), raw=raw)
        assert len(lines) == 3
        compile("\n".join(lines), name, "exec")


def test_the_usual_places() -> None:
    assert export_path(Path("runs/a"), FORMATS["hf"], None) == Path("runs/a/exported/hf")
    assert export_path(Path("runs/a"), FORMATS["onnx-int8"], None).name == "a-int8.onnx"
    assert export_path(Path("runs/a"), FORMATS["onnx"], Path("b.onnx")) == Path("b.onnx")
