"""Show a table or figure of the paper with what was measured here beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deit_transfer.errors import UsageError
from deit_transfer.paper.cells import Filled, filled_table
from deit_transfer.paper.disagreement_table import fill_table4
from deit_transfer.paper.evidence import DATASETS, FoundRuns, collect_evidence
from deit_transfer.paper.plots import figure1_png, figure3_png
from deit_transfer.paper.spec_tables import fill_table1, fill_table8, fill_table9
from deit_transfer.paper.training_tables import (
    fill_figure3,
    fill_table2,
    fill_table3,
    fill_table7,
)
from deit_transfer.paper.transfer_tables import fill_figure1, fill_table5, fill_table6
from deit_transfer.paper.values import TABLES
from deit_transfer.report.number_format import counted, listed
from deit_transfer.report.plot_style import check_png

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
# tables in which no accuracy of a run belongs
WITHOUT_RUNS = ("table1", "table8", "table9")
_FILLERS: dict[str, Callable[[FoundRuns], Filled]] = {
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
            f"there is no {name!r} here: there are tables 1-9, and figures 1 and 3, as in table6",
            hint="deit-transfer paper lists them",
        )
    table, found = TABLES[name], collect_evidence(runs)
    rows, further, notes = _FILLERS[name](found)
    columns = [*table.columns, *further]
    facts = filled_table(table, rows, columns=columns, notes=[*notes, *found.skipped])
    facts["notes"] += _elsewhere(facts, found)
    return facts | {"runs": str(runs), "num_runs": len(found.runs), "figure": None}


def _elsewhere(facts: Mapping[str, Any], found: FoundRuns) -> list[str]:
    """Return a note on runs whose datasets are not in the paper's table."""
    if facts["table"] in WITHOUT_RUNS:
        return []
    cells = [cell for row in facts["rows"] for cell in row["here"] or () if cell is not None]
    shown = {run for cell in cells for run in cell.get("runs", ())}
    known = {run.dataset for run in found.runs if str(run.folder) in shown} | DATASETS.keys()
    others = [run for run in found.runs if run.dataset not in known]
    if not others:
        return []
    names = listed(sorted({run.dataset for run in others}), most=3)
    return [
        f"not shown: {counted(len(others), 'run')} on {names}, of which the paper has no figures; "
        f"they are in deit-transfer runs list {found.out}"
    ]


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
