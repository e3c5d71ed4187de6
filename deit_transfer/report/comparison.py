"""Show a comparison: the table, the difference, and what it means in words.

Reads the object that `analysis.comparison.build_comparison` returns; tests nothing itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deit_transfer.report.label_efficiency import efficiency_table, share_text
from deit_transfer.report.number_format import compact, duration, p_text, percent, tells_top5
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table

Comparison = Mapping[str, Any]
Arm = Mapping[str, Any]

SIGNIFICANT = 0.05
# how far the images seen may differ before a reader has to be told
EQUAL_IMAGES = 1.05


def comparison_table(comparison: Comparison) -> Screen:
    """Return the arms side by side, their difference, and one sentence on what it shows.

    Args:
        comparison: `dataset`, `model`, `start`, `seeds`, `budget`, `arms` (each `arm`,
            `top1_mean`, `top1_ci95`, `ci_method`, `n`, `top5_mean`, `mean_per_class_mean`,
            `images_seen_mean`, `seconds_mean`, `images_per_second_mean`, `paper_top1`,
            `paper_label`, `reused`), `differences` (each `arm`, `baseline`, `delta`,
            `delta_ci95`, `p_value`, `test_method`, `n`), `num_test_images`, `num_classes`,
            `labels`; and, of a
            comparison at several sizes, `label_efficiency`.
    """
    return Screen(lambda terminal: _screen(comparison, terminal))


def verdict(comparison: Comparison) -> str:
    """Return in a sentence or two what pretraining bought, and how sure that is."""
    found = list(comparison.get("differences") or [])
    if not found:
        return "One arm alone: there is nothing to compare with."
    first, num_seeds = found[0], int(found[0]["n"])
    sentence = _finding(first, comparison)
    if num_seeds == 1:
        return f"{sentence} With one seed, another seed may give another result: add --seeds 3."
    return sentence


def difference_line(difference: Mapping[str, Any]) -> str:
    """Return one difference with its interval and test, in percentage points of top-1."""
    low, high = difference["delta_ci95"]
    pairs = f", n = {difference['n']}" if "seeds" in difference["test_method"] else ""
    return (
        f"{difference['arm']} - {difference['baseline']}: {difference['delta']:+.2f} points of "
        f"top-1, 95% interval {low:+.2f} to {high:+.2f}, {p_text(difference['p_value'])} "
        f"({difference['test_method']}{pairs})"
    )


def footnotes(comparison: Comparison) -> list[str]:
    """Return what a reader must know to judge the table: labels, reuse, images seen, paper."""
    arms = comparison["arms"]
    notes = list(comparison.get("labels") or [])
    notes += [_reuse(arm) for arm in arms if arm.get("reused")]
    if (seen := _images_note(arms)) is not None:
        notes.append(seen)
    papers = {arm["paper_label"] for arm in arms if arm.get("paper_label")}
    notes += [f"paper: {label}" for label in sorted(papers)]
    return list(dict.fromkeys(notes))


def top1_lines(arm: Arm, *, plus_minus: str) -> list[str]:
    """Return the mean, its 95% interval, and over what that is taken, as up to three lines.

    The interval is written with +- where it lies even around the mean, else by its ends.
    """
    mean, interval = percent(arm["top1_mean"]), arm.get("top1_ci95")
    if not interval:
        return [mean]
    low, high = interval
    if "seeds" not in arm["ci_method"]:
        return [mean, f"[{percent(low)}, {percent(high)}]", "test images"]
    seeds = f"{arm['n']} seeds"
    if abs((high + low) / 2 - arm["top1_mean"]) < 0.01:
        return [f"{mean} {plus_minus} {percent((high - low) / 2)}", seeds]
    return [mean, f"[{percent(low)}, {percent(high)}]", seeds]


def _screen(comparison: Comparison, terminal: TerminalStyle) -> RenderableType:
    arms: Sequence[Arm] = comparison["arms"]
    lines = [
        terminal.text(difference_line(difference), style="bold")
        for difference in comparison.get("differences") or []
    ]
    answer = terminal.text(verdict(comparison), style="bold green")
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note in footnotes(comparison):
        notes.add_row("*", terminal.text(note, style="dim"))
    efficiency = comparison.get("label_efficiency")
    curves = [efficiency_table(efficiency)] if efficiency else []
    return Group(_table(comparison, arms, terminal), *lines, answer, *curves, notes)


def _table(comparison: Comparison, arms: Sequence[Arm], terminal: TerminalStyle) -> Table:
    title = (
        f"{comparison['dataset']}, {comparison['model']}, {_seeds(comparison)}, "
        f"{comparison['num_test_images']:,} test images, budget: {comparison['budget']}"
        f"{_largest_size(comparison)}"
    )
    with_paper = any(arm.get("paper_top1") is not None for arm in arms)
    table = new_table(terminal, title)
    table.add_column("arm", overflow="fold")
    table.add_column("top-1", overflow="fold")
    # figures are short and must stay whole; long names of arms give way instead
    with_top5 = tells_top5(comparison)
    titles = (
        ["top-5"] * with_top5 + ["mean/\nclass", "images", "time", "img/s"] + ["paper"] * with_paper
    )
    for name in titles:
        table.add_column(name, justify="right", no_wrap=True)
    best = max(arm["top1_mean"] for arm in arms)
    for arm in arms:
        style = "bold" if arm["top1_mean"] == best else ""
        cells = _cells(arm, terminal, with_top5=with_top5, with_paper=with_paper)
        table.add_row(*cells, style=style)
    return table


def _cells(arm: Arm, terminal: TerminalStyle, *, with_top5: bool, with_paper: bool) -> list[Text]:
    top1 = top1_lines(arm, plus_minus=terminal.plus_minus)
    cells = [
        *[percent(arm["top5_mean"])] * with_top5,
        percent(arm["mean_per_class_mean"]),
        compact(arm["images_seen_mean"]),
        duration(arm["seconds_mean"]),
        compact(arm["images_per_second_mean"]),
    ]
    paper = [percent(arm.get("paper_top1"))] if with_paper else []
    # a space gives long names like paper/finetune/cifar10 a place to break
    name = terminal.text(str(arm["arm"]).replace("+", " +").replace("/", " /"))
    return [name, terminal.lines(top1), *(terminal.text(cell) for cell in [*cells, *paper])]


def _largest_size(comparison: Comparison) -> str:
    efficiency = comparison.get("label_efficiency")
    if not efficiency:
        return ""
    largest = efficiency["points"][-1]
    return f", {share_text(largest['fraction'])} of the labels ({largest['labels']:,})"


def _seeds(comparison: Comparison) -> str:
    num_seeds = len(comparison["seeds"])
    return "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"


def _finding(difference: Mapping[str, Any], comparison: Comparison) -> str:
    low, high = difference["delta_ci95"]
    delta, p_value = difference["delta"], difference["p_value"]
    what = _what(difference, comparison)
    sure = p_value is not None and p_value < SIGNIFICANT and (low > 0 or high < 0)
    if not sure:
        return (
            f"{what} made no difference that this comparison can distinguish from chance: "
            f"{delta:+.1f} points, anything from {low:+.1f} to {high:+.1f} is possible."
        )
    verb = "bought" if delta > 0 else "cost"
    return (
        f"{what} {verb} {abs(delta):.1f} points of top-1 here (95% interval {_range(low, high)})."
    )


def _range(low: float, high: float) -> str:
    near, far = sorted((abs(low), abs(high)))
    return f"{near:.1f} to {far:.1f}"


def _what(difference: Mapping[str, Any], comparison: Comparison) -> str:
    if difference["arm"] == "finetune" and difference["baseline"] == "scratch":
        return f"Starting from {comparison['pretrained']} instead of from scratch"
    return f"{difference['arm']} instead of {difference['baseline']}"


def _reuse(arm: Arm) -> str:
    runs = "run" if arm["n"] == 1 else "runs"
    return (
        f"{arm['arm']}: {arm['reused']} of {arm['n']} {runs} reused, with the same recipe and data"
    )


def _images_note(arms: Sequence[Arm]) -> str | None:
    seen = [
        (arm["images_seen_mean"], arm["arm"])
        for arm in arms
        # a probe learns from each image once, and a soup counts those of all its runs
        if arm.get("images_seen_mean") and all(run["seed"] is not None for run in arm["runs"])
    ]
    if len(seen) < 2 or max(seen)[0] <= EQUAL_IMAGES * min(seen)[0]:
        return None
    (most, larger), (least, smaller) = max(seen), min(seen)
    return f"{larger} saw {most / least:.1f} times the images that {smaller} saw"
