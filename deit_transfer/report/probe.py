"""Show the result of a probe."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from deit_transfer.report.number_format import counts_text, duration, grouped, percent
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table

Result = Mapping[str, Any]
Row = Mapping[str, Any]


def probe_table(result: Result) -> Screen:
    """Return a row for each embedding, the figure that counts, and what it cost.

    Args:
        result: What `evaluation.probe.probe` returns.
    """
    return Screen(lambda terminal: _screen(result, terminal))


def probe_sentences(result: Result) -> list[str]:
    """Return in words what was found, how it was chosen, and how long it took."""
    low, high = result["top1_ci95"]
    lines = [
        f"Logistic regression: top-1 {percent(result['top1'], digits=2)}% on "
        f"{grouped(result['num_test_images'])} test images (Wilson 95% interval "
        f"{percent(low, digits=2)} to {percent(high, digits=2)}).",
        f"{_neighbors(result)}: {percent(result['knn_top1'], digits=2)}%.",
        f"{_chosen(result)} {_chosen_on(result)}; the fit is on all of them, and the test images "
        "were answered once.",
    ]
    kept = result["features_kept"]
    spent = f"Took {duration(result['seconds_now'])}"
    if kept:
        lines.append(
            f"{spent}, as the features of {grouped(kept)} images were kept from before; "
            f"{duration(result['seconds'])} from nothing."
        )
    else:
        lines.append(f"{spent}; the features are kept, so that a next probe takes less.")
    return lines


def _screen(result: Result, terminal: TerminalStyle) -> RenderableType:
    lines = [terminal.text(line) for line in probe_sentences(result)]
    lines[0].stylize("bold green")
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note in _facts(result):
        notes.add_row("*", terminal.text(note, style="dim"))
    return Group(_table(result, terminal), *lines, notes)


def _table(result: Result, terminal: TerminalStyle) -> Table:
    table = new_table(terminal, f"Frozen features of {result['model']} on {result['dataset']}")
    table.add_column("embedding", overflow="fold")
    for name in ("dims", "logistic\ntop-1", "folds", "C", "k-NN\ntop-1", "folds", "k, votes"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["embeddings"]:
        style = "bold" if row["embedding"] == result["embedding"] else ""
        table.add_row(*(terminal.text(cell) for cell in _cells(row)), style=style)
    return table


def _cells(row: Row) -> list[str]:
    return [
        row["embedding"],
        str(row["dimensions"]),
        percent(row["top1"], digits=2),
        percent(row["fold_top1"]),
        f"{row['C']:.2g}",
        percent(row["knn_top1"], digits=2),
        percent(row["knn_fold_top1"]),
        f"{row['k']} {row['votes']}",
    ]


def _neighbors(result: Result) -> str:
    if result["k"] == 1:
        return "Nearest neighbor"
    return f"{result['k']} nearest neighbors, {result['votes']} votes"


def _chosen(result: Result) -> str:
    several = len(result["embeddings"]) > 1
    return f"C, k, votes and embedding ({result['embedding']})" if several else "C, k and votes"


def _chosen_on(result: Result) -> str:
    images = f"{grouped(result['counts']['train'])} labeled images"
    folds = result["folds"]
    if folds == 0:
        return f"are the defaults, as no class of the {images} has two"
    if folds == 1:
        return f"were chosen on a fifth of the {images}"
    return f"were chosen by {folds} folds of the {images}"


def _facts(result: Result) -> list[str]:
    return [
        f"{counts_text(result['counts'])}; {result['resolution']} pixels, "
        f"{result['precision']} on {result['device']}",
        f"start: {result['pretrained']}",
        *result["notes"],
    ]
