"""A comparison's Markdown page: result first, then the table, notes and details."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deit_transfer.report.comparison import (
    Comparison,
    difference_line,
    footnotes,
    top1_lines,
    verdict,
)
from deit_transfer.report.datasets_comparison import row_cell, row_title, sentences
from deit_transfer.report.label_efficiency import interval_cell, share_text
from deit_transfer.report.number_format import compact, duration, grouped, percent, tells_top5
from deit_transfer.report.terminal_style import printable


def comparison_markdown(
    comparison: Comparison,
    *,
    command: str = "",
    figure: str = "",
    efficiency_figure: str = "",
    recipes: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the report of a comparison as one Markdown page.

    Args:
        comparison: The object that `comparison_table` shows, its arms with their `runs`.
        command: What was typed, so that it can be typed again.
        figure: Path of the curves, relative to the page.
        efficiency_figure: Path of accuracy by labels, relative to the page.
        recipes: The recipe of each arm, by arm.
        environment: What it ran on: label and value.
    """
    dataset, model = printable(comparison["dataset"]), printable(comparison["model"])
    parts = [
        f"# What does pretraining buy? {_plain(dataset)}, {_plain(model)}",
        f"**{_plain(verdict(comparison))}**",
        _arms(comparison),
        _bullets(_plain(difference_line(one)) for one in comparison.get("differences") or []),
        f"![Validation top-1 and training loss by images seen](<{figure}>)" if figure else "",
        _section("What labels are worth", _efficiency(comparison, efficiency_figure)),
        _section("Read with care", _bullets(_plain(note) for note in footnotes(comparison))),
        _section("Set-up", _setup(comparison, recipes or {}, environment or {})),
        _section("Every run", _runs(comparison)),
        _section("Again", f"```sh\n{printable(command)}\n```" if command else ""),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def datasets_markdown(
    table: Mapping[str, Any],
    *,
    command: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the report of several datasets' comparisons as one Markdown page.

    Args:
        table: The object that `datasets_table` shows.
        command: What was typed, so that it can be typed again.
        environment: What it ran on: label and value.
    """
    names = [printable(name) for name in table["datasets"]]
    rows = [
        [row_title(row), *(row_cell(row, name, plus_minus="±") for name in table["datasets"])]
        for row in table["rows"]
    ]
    answers = [
        f"{_plain(one['dataset'])}: {_plain(verdict(one))} ({_plain(one['folder'])})"
        for one in table["comparisons"]
    ]
    failures = [f"{_plain(one['dataset'])}: {_plain(sentences(one))}" for one in table["failed"]]
    facts = [f"{_plain(k)}: {_plain(v)}" for k, v in (environment or {}).items()]
    parts = [
        "# What does pretraining buy? The paper's Table 6 for this machine",
        _table(["top-1", *(_plain(name) for name in names)], rows),
        _bullets(answers),
        _section("Failed", _bullets(failures)),
        _section("Read with care", _bullets(_plain(note) for note in table["labels"])),
        _section("Set-up", _bullets(facts)),
        _section("Again", f"```sh\n{printable(command)}\n```" if command else ""),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _efficiency(comparison: Comparison, figure: str) -> str:
    efficiency = comparison.get("label_efficiency")
    if not efficiency:
        return ""
    points = efficiency["points"]
    names = list(dict.fromkeys(arm["arm"] for point in points for arm in point["arms"]))
    rows = []
    for point in points:
        arms = {arm["arm"]: arm for arm in point["arms"]}
        cells = [
            interval_cell(arms[name], plus_minus="±") if name in arms else "-" for name in names
        ]
        rows.append([share_text(point["fraction"]), grouped(point["labels"]), *cells])
    parts = [
        "\n\n".join(_plain(sentence) for sentence in efficiency["sentences"]),
        _table(["share", "labels", *(_plain(name) for name in names)], rows),
        f"![Top-1 by labeled images](<{figure}>)" if figure else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _arms(comparison: Comparison) -> str:
    with_top5 = tells_top5(comparison)
    titles = [
        "arm",
        "top-1 and 95% interval over",
        *["top-5"] * with_top5,
        "mean/class",
        "images",
        "time",
        "images/s",
    ]
    rows = []
    for arm in comparison["arms"]:
        row = [arm["arm"], ", ".join(top1_lines(arm, plus_minus="±"))]
        row += [percent(arm["top5_mean"])] * with_top5
        row += [percent(arm["mean_per_class_mean"])]
        row += [compact(arm["images_seen_mean"]), duration(arm["seconds_mean"])]
        rows.append([*row, compact(arm["images_per_second_mean"]), percent(arm.get("paper_top1"))])
    return _table([*titles, "paper"], rows)


def _setup(
    comparison: Comparison, recipes: Mapping[str, str], environment: Mapping[str, str]
) -> str:
    seeds = ", ".join(str(seed) for seed in comparison["seeds"])
    facts = {
        "dataset": comparison["dataset"],
        "model": comparison["model"],
        "pretrained weights of the fine-tuned arm": comparison["pretrained"],
        "seeds": seeds,
        "budget": comparison["budget"],
        "test images": grouped(comparison["num_test_images"]),
        **{f"recipe of {arm}": recipe for arm, recipe in recipes.items()},
        **environment,
    }
    return _bullets(f"{_plain(label)}: {_plain(value)}" for label, value in facts.items())


def _runs(comparison: Comparison) -> str:
    with_top5 = tells_top5(comparison)
    rows = [
        [
            arm["arm"],
            "-" if run.get("seed") is None else run["seed"],
            percent(run.get("top1"), digits=2),
            *[percent(run.get("top5"), digits=2)] * with_top5,
            "-" if run.get("loss") is None else f"{run['loss']:.4f}",
            grouped(run.get("images_seen")),
            duration(run.get("seconds")),
            run.get("run"),
        ]
        for arm in comparison["arms"]
        for run in arm["runs"]
    ]
    titles = [
        "arm",
        "seed",
        "top-1",
        *["top-5"] * with_top5,
        "loss",
        "images seen",
        "time",
        "folder",
    ]
    return _table(titles, rows) if rows else ""


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [[_plain(cell) for cell in row] for row in rows]
    # figures stand right, names left
    rule = ["---", *("---:" for _ in titles[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (list(titles), rule, *cells))


def _plain(value: object) -> str:
    """Return text in which Markdown and HTML read no marks of their own."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", printable(value))
