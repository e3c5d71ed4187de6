"""Write the folder of a comparison: JSON, plots and the Markdown page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deit_transfer.experiments.train_or_reuse import TrainedRun
from deit_transfer.report.comparison_markdown import comparison_markdown, datasets_markdown
from deit_transfer.report.comparison_plots import Series, curves_png, efficiency_png
from deit_transfer.runs.environment import command_line, describe_environment
from deit_transfer.runs.folder import COMPARISON_FILE, DATASETS_FILE, folder_of_runs

FIGURE_FILE = "curves.png"
EFFICIENCY_FILE = "label-efficiency.png"
REPORT_FILE = "report.md"
FOLDERS = "comparisons"


def write_comparison(
    comparison: Mapping[str, Any],
    *,
    runs: Mapping[str, Sequence[TrainedRun]],
    recipes: Mapping[str, str],
    out: Path,
    name: str | None,
) -> dict[str, Any]:
    """Write a comparison into a folder of its own, and return it with that folder's path.

    One of the same runs is written anew where it lies, unless a name is asked for.

    Args:
        comparison: The comparison object.
        runs: The runs whose curves are drawn, by arm; those without epochs are left out.
        recipes: The recipe of each arm, by arm.
        out: Folder that holds the runs.
        name: The folder below `out`; None finds that of the same runs, or makes one.
    """
    automatic = f"{FOLDERS}/{comparison['dataset']}-{comparison['model']}"
    folder = folder_of_runs(comparison, out, name, automatic=automatic, file=COMPARISON_FILE)
    comparison = {**comparison, "folder": str(folder)}
    title = f"{comparison['model']} on {comparison['dataset']}"
    paper = {a["arm"]: a["paper_top1"] for a in comparison["arms"] if a["paper_top1"] is not None}
    series = [_series(arm, run) for arm, ran in runs.items() for run in ran if run.folder.metrics()]
    if series:
        curves_png(folder.path / FIGURE_FILE, series, title=title, paper_top1=paper)
    efficiency = comparison.get("label_efficiency")
    if efficiency is not None:
        efficiency_png(folder.path / EFFICIENCY_FILE, efficiency["points"], title=title)
    folder.write_json(COMPARISON_FILE, comparison)
    page = comparison_markdown(
        comparison,
        command=_command(),
        figure=FIGURE_FILE if series else "",
        efficiency_figure=EFFICIENCY_FILE if efficiency is not None else "",
        recipes=recipes,
        environment=_machine(),
    )
    folder.write_text(REPORT_FILE, page)
    return comparison


def write_datasets(table: Mapping[str, Any], *, out: Path, name: str | None) -> dict[str, Any]:
    """Write the table of several datasets into a folder of its own, and return it with its path."""
    automatic = f"{FOLDERS}/datasets"
    folder = folder_of_runs(table, out, name, automatic=automatic, file=DATASETS_FILE)
    table = {**table, "folder": str(folder)}
    folder.write_json(DATASETS_FILE, table)
    page = datasets_markdown(table, command=_command(), environment=_machine())
    folder.write_text(REPORT_FILE, page)
    return table


def _command() -> str:
    return command_line()


def _machine() -> dict[str, str]:
    environment = describe_environment()
    packages = environment["packages"]
    return {
        "machine": f"{environment['gpu'] or environment['processor']}",
        "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
    }


def _series(arm: str, run: TrainedRun) -> Series:
    records = run.folder.metrics()
    return Series(
        label=f"{arm}, seed {run.result['seed']}",
        arm=arm,
        seed=run.result["seed"],
        epochs=[record["epoch"] for record in records],
        images_seen=[record["images_seen"] for record in records],
        val_top1=[record.get("val_top1") for record in records],
        train_loss=[record["loss"] for record in records],
        test_top1=run.result["top1"],
    )
