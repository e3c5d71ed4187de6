"""The growing epoch table: fixed width, inside 80 columns, whatever the values."""

import math

import pytest

from deit_transfer.report.training_table import epoch_columns, epoch_header, epoch_row

RECORD = {
    "epoch": 3,
    "epochs": 300,
    "loss": 2.34567,
    "lr": 6.25e-5,
    "val_top1": 81.234,
    "ema_top1": 79.5,
    "heads": {"class": 80.1, "distill": 80.9, "joint": 81.234},
    "teacher_agreement": 91.02,
    "images_per_second": 364.6,
    "data_wait_percent": 2.6,
    "seconds": 723.0,
}
EXTREMES = [
    {"epoch": 1},
    {"epoch": 9999, "epochs": 9999, "loss": 1234567.8, "lr": 1.234e-12, "val_top1": 100.0},
    {"epoch": 10_000, "epochs": 10_000, "loss": -0.00001, "lr": 0.0, "seconds": 9e7},
    {"epoch": 1, "loss": math.inf, "lr": 123.0, "images_per_second": 1e12, "heads": None},
    {"epoch": 1, "loss": math.nan, "val_top1": math.nan, "data_wait_percent": 100.0},
]


def test_the_row_shows_every_value():
    assert epoch_row(RECORD).split() == [
        "3/300",
        "2.3457",
        "6.25e-5",
        "81.23",
        "80.10",
        "80.90",
        "91.02",
        "79.50",
        "365",
        "3%",
        "12m03s",
    ]


@pytest.mark.parametrize("record", [RECORD, *EXTREMES])
@pytest.mark.parametrize("distilled", [False, True])
def test_every_row_is_as_wide_as_the_header_and_fits(record, distilled):
    columns = epoch_columns(distilled=distilled)
    row = epoch_row(record, columns)
    assert len(row) == len(epoch_header(columns)) <= 80
    assert row.isascii()
    assert len(row.split()) == len(columns)
    assert "#" not in row


@pytest.mark.parametrize(
    ("distilled", "ema", "taught", "more"),
    [
        (False, False, False, []),
        (False, True, False, ["EMA"]),
        (False, False, True, ["agree"]),
        (True, True, False, ["class", "distill", "agree", "EMA"]),
    ],
)
def test_columns_follow_what_the_run_has(distilled, ema, taught, more):
    columns = epoch_columns(distilled=distilled, ema=ema, taught=taught)
    titles = [column.title for column in columns]
    assert titles == ["epoch", "loss", "lr", "val", *more, "img/s", "wait", "time"]


def test_values_stand_under_their_titles():
    header, row = epoch_header(), epoch_row(RECORD)
    for column, value in (("loss", "2.3457"), ("agree", "91.02"), ("EMA", "79.50")):
        assert header.index(column) + len(column) == row.index(value) + len(value)
