"""Own `paper`: a table or figure of the paper with what was measured here beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deit_transfer.errors import UsageError, did_you_mean
from deit_transfer.report.canvas import check_png
from deit_transfer.report.paper_charts import figure1_png, figure3_png
from deit_transfer.report.paper_figures import TABLES
from deit_transfer.run.paper.cells import Filled, filled_table
from deit_transfer.run.paper.decisions import fill_table4
from deit_transfer.run.paper.evidence import Evidence, collect_evidence
from deit_transfer.run.paper.facts import fill_table1, fill_table8, fill_table9
from deit_transfer.run.paper.networks import fill_figure1, fill_table5, fill_table6
from deit_transfer.run.paper.training import (
    fill_figure3,
    fill_table2,
    fill_table3,
    fill_table7,
)

# what a user runs for each, in short; the table itself lists the exact commands
MADE_BY = {
    "table1": "throughput MODEL...",
    "table2": "pretrain --teacher MODEL",
    "table3": "pretrain --teacher MODEL --distill soft|hard",
    "table4": "disagree RUN RUN...",
    "table5": "evaluate MODEL DATASET..., throughput MODEL...",
    "table6": "finetune DATASET, scratch DATASET",
    "table7": "sweep DATASET --recipes recipes/ablation/*",
    "table8": "data prepare DATASET",
    "table9": "recipes show pretrain/deit_base",
    "figure1": "throughput MODEL... --against RUNS",
    "figure3": "epochs DATASET --grid N,N --teacher MODEL",
}
_FILLERS: dict[str, Callable[[Evidence], Filled]] = {
    "table1": fill_table1,
    "table2": fill_table2,
    "table3": fill_table3,
    "table4": fill_table4,
    "table5": fill_table5,
    "table6": fill_table6,
    "table7": fill_table7,
    "table8": fill_table8,
    "table9": fill_table9,
    "figure1": fill_figure1,
    "figure3": fill_figure3,
}


def list_tables() -> list[dict[str, str]]:
    """Return a line on each table and figure that `paper_table` knows."""
    return [
        {"table": key, "title": table.title, "source": table.source, "made_by": MADE_BY[key]}
        for key, table in TABLES.items()
    ]


def paper_table(name: str, *, runs: Path) -> dict[str, Any]:
    """Return a table of the paper with ours beside it.

    Args:
        name: table1 to table9, figure1 or figure3.
        runs: Folder that holds runs and kept measurements; it need not exist.

    Raises:
        UsageError: There is no such table.
    """
    if name not in TABLES:
        raise UsageError(
            f"There is no {name!r} here; choose one of {', '.join(TABLES)}",
            hint=did_you_mean(name, TABLES) or "deit-transfer paper lists them",
        )
    table, found = TABLES[name], collect_evidence(runs)
    rows, further, notes = _FILLERS[name](found)
    facts = filled_table(
        table, rows, columns=[*table.columns, *further], notes=[*notes, *found.skipped]
    )
    return facts | {"runs": str(runs), "num_runs": len(found.runs), "figure": None}


def draw_figure(facts: dict[str, Any], path: Path) -> None:
    """Draw what `paper_table` returned for a figure as a PNG.

    Raises:
        UsageError: It is a table, or the PNG would replace another file.
        ResourceError: The disk is full.
    """
    if not facts["table"].startswith("figure"):
        raise UsageError(
            f"{facts['table']} is a table, and --out draws the figures",
            hint="deit-transfer paper figure1 --out figure1.png",
        )
    check_png(path)
    draw = {"figure1": figure1_png, "figure3": figure3_png}[facts["table"]]
    draw(path, facts)
