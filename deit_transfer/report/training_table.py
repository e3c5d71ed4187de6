"""The training table, which grows line by line: a header, then one row an epoch.

Rows are plain text, so that a terminal, a pipe and a log file all show the same table.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from deit_transfer.report.number_format import NOTHING, compact, duration, rate

Record = Mapping[str, Any]


class EpochColumn(NamedTuple):
    """One column: its title, its width and how a record fills it."""

    title: str
    width: int
    cell: Callable[[Record], str]


def epoch_columns(
    *, distilled: bool = False, ema: bool = True, taught: bool = False
) -> tuple[EpochColumn, ...]:
    """Return the columns that a run fills.

    Args:
        distilled: The network has two heads, each with its own figure.
        ema: An average of the weights is kept and scored.
        taught: A teacher is agreed or disagreed with, through whichever token.
    """
    left_out = set() if distilled else {"class", "distill"}
    left_out |= set() if distilled or taught else {"agree"}
    left_out |= set() if ema else {"EMA"}
    return tuple(column for column in EPOCH_COLUMNS if column.title not in left_out)


def epoch_header(columns: Sequence[EpochColumn] | None = None) -> str:
    """Return the line of titles, at most 80 characters."""
    chosen = EPOCH_COLUMNS if columns is None else columns
    return " ".join(column.title.rjust(column.width) for column in chosen)


def epoch_row(record: Record, columns: Sequence[EpochColumn] | None = None) -> str:
    """Return one epoch's line, as wide as the header's; what the record lacks shows as a dash.

    Args:
        record: `epoch` (from 1), `epochs`, `loss`, `lr`, `val_top1` (of a distilled model: both
            heads together), `ema_top1`, `heads` {"class", "distill"}, `teacher_agreement`,
            `images_per_second`, `data_wait_percent`, `seconds` (since the start). Percent in
            0-100.
        columns: What `epoch_columns` returned; all of them when None.
    """
    chosen = EPOCH_COLUMNS if columns is None else columns
    return " ".join(_fitted(column.cell(record), column) for column in chosen)


def _fitted(cell: str, column: EpochColumn) -> str:
    # a value too wide for its column is unknown to the reader either way; the table stays whole
    return (cell if len(cell) <= column.width else "#" * column.width).rjust(column.width)


def _epoch(record: Record) -> str:
    epoch, epochs = str(record["epoch"]), record.get("epochs")
    # past 9,999 epochs only the epoch itself fits
    return f"{epoch}/{epochs}" if epochs and len(f"{epoch}/{epochs}") <= 9 else epoch


def _loss(record: Record) -> str:
    loss = record.get("loss")
    if loss is None:
        return NOTHING
    if not math.isfinite(loss):
        return str(float(loss))
    written = (f"{loss:.{digits}f}" for digits in (4, 3, 2, 1))
    return next((text for text in written if len(text) <= 6), f"{loss:.0e}")


def _lr(record: Record) -> str:
    lr = record.get("lr")
    return rate(lr) if lr is None or len(rate(lr)) <= 7 else f"{lr:.0e}"


def _percent(key: str, *, within: str = "") -> Callable[[Record], str]:
    def cell(record: Record) -> str:
        values = (record.get(within) or {}) if within else record
        value = values.get(key)
        return NOTHING if value is None or not math.isfinite(value) else f"{value:.2f}"

    return cell


def _data_wait(record: Record) -> str:
    wait = record.get("data_wait_percent")
    return NOTHING if wait is None else f"{wait:.0f}%"


EPOCH_COLUMNS = (
    EpochColumn("epoch", 9, _epoch),
    EpochColumn("loss", 6, _loss),
    EpochColumn("lr", 7, _lr),
    EpochColumn("val", 6, _percent("val_top1")),
    EpochColumn("class", 6, _percent("class", within="heads")),
    EpochColumn("distill", 7, _percent("distill", within="heads")),
    EpochColumn("agree", 6, _percent("teacher_agreement")),
    EpochColumn("EMA", 6, _percent("ema_top1")),
    EpochColumn("img/s", 5, lambda record: compact(record.get("images_per_second"))),
    EpochColumn("wait", 4, _data_wait),
    EpochColumn("time", 6, lambda record: duration(record.get("seconds"))),
)
