"""Numbers as they are written: right, short, and never wider than their column."""

import math

import pytest

from deit_transfer.report.number_format import (
    compact,
    counted,
    duration,
    grouped,
    listed,
    p_text,
    percent,
    rate,
)


def test_counted():
    said = [counted(count, "epoch") for count in (0, 1, 2, 1000)]
    assert said == ["0 epochs", "1 epoch", "2 epochs", "1,000 epochs"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0"),
        (7, "7"),
        (36.64, "36.6"),
        (999, "999"),
        (999.99, "1.00k"),
        (1_250, "1.25k"),
        (12_345, "12.3k"),
        (999_960, "1.00M"),
        (5_717_416, "5.72M"),
        (86_567_656, "86.6M"),
        (3.4e9, "3.40G"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_compact(count, expected):
    assert compact(count) == expected


def test_compact_fits_five_characters_and_keeps_two_digits():
    for count in (1.1**power for power in range(-10, 280)):
        text = compact(count)
        assert len(text) <= 5
        value = float(text.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1)
        assert value == pytest.approx(count, rel=0.01, abs=0.06)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (723, "12m03s"),
        (3599.6, "1h00m"),
        (18_420, "5h07m"),
        (86_399, "1d00h"),
        (273_600, "3d04h"),
        (9e7, "1041d"),
        (None, "-"),
        (math.inf, "-"),
    ],
)
def test_duration(seconds, expected):
    assert duration(seconds) == expected
    assert len(expected) <= 6


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5e-4, "5e-4"), (6.25e-5, "6.25e-5"), (0.1, "1e-1"), (1.0, "1e0"), (0, "0"), (None, "-")],
)
def test_rate(value, expected):
    assert rate(value) == expected
    if value:
        assert float(expected) == pytest.approx(value)


@pytest.mark.parametrize(
    ("p_value", "expected"),
    [(0.0004, "p < 0.001"), (0.012, "p = 0.012"), (1.0, "p = 1.000"), (None, "no p-value")],
)
def test_p_text(p_value, expected):
    assert p_text(p_value) == expected


def test_percent_grouped_and_listed():
    assert percent(91.236, digits=2) == "91.24"
    assert percent(None) == percent(math.nan) == "-"
    assert grouped(1_281_167) == "1,281,167"
    assert listed(["a", "b", "c"], most=3) == "a, b, c"
    assert listed(["a", "b", "c", "d"], most=2) == "a, b and 2 more"
