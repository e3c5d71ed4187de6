"""The benchmarks import what is there, and their table keeps the rows that it has."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in NAMES:
            del sys.modules[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_a_side_that_fails_does_not_lose_the_others(tmp_path: Path) -> None:
    gpu = importlib.import_module("gpu")
    table = gpu.Table(tmp_path / "rows.json", minutes=5)

    def fails():
        raise RuntimeError("no compiler")

    sides = {"sound": lambda: lambda: None, "broken": fails, "other": lambda: lambda: None}
    gpu.compare(table, "work", sides, images=8, device=torch.device("cpu"), rounds=2)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["side"] for row in rows] == ["broken", "sound", "other"]
    assert rows[0]["failed"] == "no compiler"
    assert rows[2]["ratio"] > 0


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    gpu = importlib.import_module("gpu")
    table = gpu.Table(tmp_path / "rows.json", minutes=0)
    sides = {"slow": lambda: lambda: None}
    gpu.compare(table, "work", sides, images=8, device=torch.device("cpu"), rounds=2)
    assert table.rows == [{"work": "work, slow", "side": "left out", "reason": "no time is left"}]
