"""Show an evaluation: the short result, and the tables of the options.

Reads a result object of `evaluate`; scores nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from deit_transfer.report.number_format import (
    NOTHING,
    counted,
    grouped,
    p_text,
    percent,
    tells_top5,
)
from deit_transfer.report.result import result_table
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table

Result = Mapping[str, Any]

MOST_CLASSES = 40
SHOT_NAMES = {"many": "many (>100)", "medium": "medium (20-100)", "few": "few (<20)"}
VIEW_NAMES = {
    "one": "one view",
    "flip": "image and mirror image",
    "five": "five crops",
    "ten": "five crops, mirrored too",
}


def evaluation_screens(result: Result) -> list[RenderableType]:
    """Return what is shown of an evaluation: of one dataset, or of several in one table.

    Args:
        result: The object of `evaluate`; with several datasets `datasets` holds one for each.
    """
    if "datasets" not in result:
        return [result_table(result), *_details(result)]
    screens: list[RenderableType] = [evaluated_datasets_table(result)]
    for one in result["datasets"]:
        tables = _tables(one)
        screens += [f"\n{one['dataset']}", *tables] if tables else []
    return screens


def evaluated_datasets_table(result: Result) -> Screen:
    """Return the figures on several datasets, one a row, with the paper's where there are any."""

    def build(terminal: TerminalStyle) -> RenderableType:
        rows = result["datasets"]
        title = f"{result.get('model') or result['run']} on {len(rows)} datasets"
        with_top5 = tells_top5(rows[0])  # one network, so one number of classes
        columns = ("top-1", *["top-5"] * with_top5, "per class", "ECE", "paper")
        table = _number_table(terminal, title, "dataset", columns)
        for row in rows:
            images = counted(row["num_test_images"], f"{row['split']} image")
            table.add_row(
                terminal.lines([row["dataset"], images]),
                terminal.lines([percent(row["top1"], digits=2), _interval(row["top1_ci95"])]),
                *[percent(row["top5"], digits=2)] * with_top5,
                percent(row["mean_per_class"], digits=2),
                percent(row["calibration"]["ece"], digits=2),
                percent(row.get("paper_top1")),
            )
        labels = dict.fromkeys(row["paper_label"] for row in rows if row.get("paper_label"))
        notes = [f"paper: {label}" for label in labels]
        notes.append("top-1 with its Wilson 95% interval; ECE in points, 15 bins")
        return Group(table, *(terminal.text(note) for note in notes))

    return Screen(build)


def calibration_line(facts: Mapping[str, Any]) -> str:
    """Return the calibration in one line, and what a temperature would make of it."""
    if facts["ece"] is None:
        return "calibration: no image could be read"
    line = f"calibration: ECE {facts['ece']:.2f}%, NLL {facts['nll']:.4f}"
    if facts.get("temperature") is None:
        return line
    return (
        f"{line}; at temperature {facts['temperature']:.2f} (fitted on {facts['fitted_on']}) "
        f"ECE {facts['ece_scaled']:.2f}%, NLL {facts['nll_scaled']:.4f}"
    )


def _details(result: Result) -> list[RenderableType]:
    lines = [calibration_line(result["calibration"])]
    if groups := result.get("super_categories"):
        lines.append(
            f"super-categories: {groups['top1']:.2f}% of images are assigned the correct one of "
            f"{groups['num']}"
        )
    if gain := result.get("against_one_view"):
        lines.append(
            f"views: {VIEW_NAMES[result['views']]}, averaged; without augmentation "
            f"{gain['top1']:.2f}, {_difference(gain)}"
        )
    screens: list[RenderableType] = [
        Screen(lambda terminal, line=line: terminal.text(line))  # type: ignore[misc]
        for line in lines
    ]
    if tail := result.get("long_tail"):
        screens += [_tail_table(tail)] * _is_long_tailed(tail)
    return [*screens, *_tables(result)]


def _tables(result: Result) -> list[RenderableType]:
    """Return the tables that only options ask for."""
    screens: list[RenderableType] = []
    if result.get("head_scores"):
        screens.append(_heads_table(result["head_scores"], with_top5=tells_top5(result)))
    if result.get("resolutions"):
        screens.append(_resolutions_table(result["resolutions"], split=result["split"]))
    if result.get("per_class"):
        screens.append(_per_class_table(result["per_class"]))
        screens.append(_averages_line(result["averages"]))
        screens.append(_mistakes_table(result["confused"]))
        if groups := result.get("super_categories"):
            screens.append(_groups_table(groups["groups"]))
    return screens


def _heads_table(heads: Mapping[str, Mapping[str, Any]], *, with_top5: bool) -> Screen:
    def build(terminal: TerminalStyle) -> Table:
        columns = ("top-1", "95%", *["top-5"] * with_top5, "per class", "NLL", "ECE")
        table = _number_table(terminal, "Heads", "head", columns)
        for name, row in heads.items():
            table.add_row(
                name,
                percent(row["top1"], digits=2),
                _interval(row["top1_ci95"]),
                *[percent(row["top5"], digits=2)] * with_top5,
                percent(row["mean_per_class"], digits=2),
                f"{row['loss']:.4f}",
                percent(row["ece"], digits=2),
            )
        return table

    return Screen(build)


def _resolutions_table(rows: Sequence[Mapping[str, Any]], *, split: str) -> Screen:
    def build(terminal: TerminalStyle) -> RenderableType:
        columns = ("top-1", "95%", "against own", "p", "NLL", "ECE")
        table = _number_table(terminal, "Resolutions", "pixels", columns)
        for row in rows:
            against = row.get("against_own")
            table.add_row(
                f"{row['resolution']}{' (own)' if row['own'] else ''}",
                terminal.text(percent(row["top1"], digits=2), style="bold" if row["own"] else ""),
                _interval(row["top1_ci95"]),
                NOTHING if against is None else f"{against['difference']:+.2f}",
                NOTHING if against is None else p_text(against["p_value"]).removeprefix("p = "),
                f"{row['loss']:.4f}",
                percent(row["ece"], digits=2),
            )
        said = ["p: McNemar's mid-p test on the same images"]
        if split == "test":
            said.append("To choose a resolution, use validation images: --split val")
        return Group(table, *(terminal.text(line) for line in said))

    return Screen(build)


def _tail_table(tail: Mapping[str, Mapping[str, Any]]) -> Screen:
    def build(terminal: TerminalStyle) -> Table:
        columns = ("classes", "test images", "accuracy")
        table = _number_table(terminal, "Classes by training images", "training images", columns)
        for name, row in tail.items():
            accuracy = percent(row["accuracy"], digits=2)
            table.add_row(
                SHOT_NAMES[name], grouped(row["classes"]), grouped(row["images"]), accuracy
            )
        return table

    return Screen(build)


def _per_class_table(rows: Sequence[Mapping[str, Any]]) -> Screen:
    def build(terminal: TerminalStyle) -> RenderableType:
        worst = sorted(rows, key=lambda row: (row["recall"], row["name"]))[:MOST_CLASSES]
        columns = ("images", "precision", "recall", "95%", "F1", "AUC")
        table = _number_table(terminal, "Classes, the worst first", "class", columns)
        for row in worst:
            low, high = row["recall_ci95"]
            table.add_row(
                terminal.text(row["name"]),
                grouped(row["images"]),
                percent(row["precision"]),
                percent(row["recall"]),
                f"{percent(low)}-{percent(high)}",
                *(percent(row[key]) for key in ("f1", "auc")),
            )
        left_out = len(rows) - len(worst)
        more = f"{left_out} better ones are not shown; --out FOLDER writes all of them"
        return Group(table, *([terminal.text(more)] if left_out else []))

    return Screen(build)


def _averages_line(averages: Mapping[str, Any]) -> Screen:
    macro, weighted = (averages[name][2] for name in ("macro", "weighted"))
    line = (
        f"F1 {percent(macro)} (macro), {percent(weighted)} (weighted); balanced accuracy "
        f"{percent(averages['balanced_accuracy'])}; Cohen's kappa {averages['kappa']:.3f}; MCC "
        f"{averages['mcc']:.3f}"
    )
    return Screen(lambda terminal: terminal.text(line))


def _mistakes_table(rows: Sequence[Mapping[str, Any]]) -> Screen:
    def build(terminal: TerminalStyle) -> RenderableType:
        if not rows:
            return terminal.text("No image was misclassified.")
        table = new_table(terminal, "Most frequent confusions")
        table.add_column("true class", overflow="fold")
        table.add_column("predicted class", overflow="fold")
        table.add_column("images", justify="right", no_wrap=True)
        table.add_column("%", justify="right", no_wrap=True)
        for row in rows:
            names = [terminal.text(row["true"]), terminal.text(row["given"])]
            table.add_row(*names, grouped(row["images"]), percent(row["percent"]))
        return table

    return Screen(build)


def _groups_table(rows: Sequence[Mapping[str, Any]]) -> Screen:
    def build(terminal: TerminalStyle) -> Table:
        columns = ("classes", "images", "top-1", "correct group")
        table = _number_table(terminal, "Super-categories", "super-category", columns)
        for row in sorted(rows, key=lambda row: row["group_top1"]):
            table.add_row(
                terminal.text(row["name"] or NOTHING),
                grouped(row["classes"]),
                grouped(row["images"]),
                percent(row["top1"]),
                percent(row["group_top1"]),
            )
        return table

    return Screen(build)


def _number_table(terminal: TerminalStyle, title: str, first: str, columns: Sequence[str]) -> Table:
    table = new_table(terminal, title)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _is_long_tailed(tail: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether classes lie in more than one group; else the table repeats top-1."""
    return sum(bool(row["classes"]) for row in tail.values()) > 1


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.1f}-{ends[1]:.1f}"


def _difference(gain: Mapping[str, Any]) -> str:
    low, high = gain["difference_ci95"]
    return (
        f"{gain['difference']:+.2f} points (95% {low:+.2f} to {high:+.2f}, "
        f"{p_text(gain['p_value'])})"
    )
