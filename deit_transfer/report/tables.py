"""Own the list of everything a command can put on a screen; each lives beside its own kind."""

from deit_transfer.report.comparison import comparison_table
from deit_transfer.report.epochs import (
    EPOCH_COLUMNS,
    EpochColumn,
    epoch_columns,
    epoch_header,
    epoch_row,
)
from deit_transfer.report.header import HeaderFacts, run_header
from deit_transfer.report.listings import (
    check_table,
    dataset_table,
    difference_table,
    load_report_table,
    recipe_table,
)
from deit_transfer.report.result import result_line, result_table
from deit_transfer.report.runs import run_screens, runs_table

__all__ = [
    "EPOCH_COLUMNS",
    "EpochColumn",
    "HeaderFacts",
    "check_table",
    "comparison_table",
    "dataset_table",
    "difference_table",
    "epoch_columns",
    "epoch_header",
    "epoch_row",
    "load_report_table",
    "recipe_table",
    "result_line",
    "result_table",
    "run_header",
    "run_screens",
    "runs_table",
]
