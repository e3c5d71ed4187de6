"""Own the comparison's Markdown page: the answer first, then the table, the doubts, the details."""

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
from deit_transfer.report.look import printable
from deit_transfer.report.numbers import compact, duration, grouped, percent


def comparison_markdown(
    comparison: Comparison,
    *,
    command: str = "",
    figure: str = "",
    recipes: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the report of a comparison as one Markdown page.

    Args:
        comparison: The object that `comparison_table` shows, its arms with their `runs`.
        command: What was typed, so that it can be typed again.
        figure: Path of the curves, relative to the page.
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
        _section("Read with care", _bullets(_plain(note) for note in footnotes(comparison))),
        _section("Set-up", _setup(comparison, recipes or {}, environment or {})),
        _section("Every run", _runs(comparison["arms"])),
        _section("Again", f"```sh\n{printable(command)}\n```" if command else ""),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _arms(comparison: Comparison) -> str:
    titles = [
        "arm",
        "top-1 and 95% interval over",
        "top-5",
        "mean/class",
        "images",
        "time",
        "images/s",
    ]
    rows = []
    for arm in comparison["arms"]:
        row = [arm["arm"], ", ".join(top1_lines(arm, plus_minus="±"))]
        row += [percent(arm["top5_mean"]), percent(arm["mean_per_class_mean"])]
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
        "start of the fine-tuned arm": comparison["start"],
        "seeds": seeds,
        "budget": comparison["budget"],
        "test images": grouped(comparison["num_test_images"]),
        **{f"recipe of {arm}": recipe for arm, recipe in recipes.items()},
        **environment,
    }
    return _bullets(f"{_plain(label)}: {_plain(value)}" for label, value in facts.items())


def _runs(arms: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            arm["arm"],
            run.get("seed"),
            percent(run.get("top1"), digits=2),
            percent(run.get("top5"), digits=2),
            "-" if run.get("loss") is None else f"{run['loss']:.4f}",
            grouped(run.get("images_seen")),
            duration(run.get("seconds")),
            run.get("run"),
        ]
        for arm in arms
        for run in arm["runs"]
    ]
    titles = ["arm", "seed", "top-1", "top-5", "loss", "images seen", "time", "folder"]
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
