"""benchmarks/gpu.py prints a row for each measurement, whatever fails or runs out of time."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu as benchmark

    yield benchmark
    for name in ("gpu", "machine", "training_step"):
        sys.modules.pop(name, None)


def test_a_row_that_fails_says_why_and_the_next_is_measured(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> dict[str, float]:
        raise RuntimeError("no kernel\nand more")

    table = gpu.Table(CPU, minutes=1)
    table.add("first", broken)
    table.add("second", lambda: {"img/s": 1234.5})
    first, second = capsys.readouterr().out.splitlines()
    assert "failed RuntimeError: no kernel" in first
    assert "img/s 1,234" in second
    assert [row["what"] for row in table.rows] == ["first", "second"]


def test_after_its_minutes_it_measures_nothing(gpu: ModuleType) -> None:
    table = gpu.Table(CPU, minutes=0)
    row = table.add("late", lambda: pytest.fail("measured all the same"))
    assert row["skipped"] == "the time is over"


def test_a_small_step_is_measured(gpu: ModuleType) -> None:
    table = gpu.Table(CPU, minutes=1)
    gpu.measure_model(table, "deit_micro", rate=1e12, small=True)
    assert [row["what"].split(": ")[1] for row in table.rows] == [
        "timm's parts, autocast",
        "ours, eager",
    ]
    for row in table.rows:
        assert row["img/s"] > 0, row
        assert 0 < row["of matmul rate"] < 1
