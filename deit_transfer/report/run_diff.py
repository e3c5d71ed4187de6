"""Show the difference between two runs: settings, environment, and the paired test."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from deit_transfer.report.listings import difference_table
from deit_transfer.report.number_format import NOTHING, grouped, p_text, percent, tells_top5
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table

SIGNIFICANT = 0.05
DIGEST_SHOWN = 16
TITLES = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class", "loss": "loss"}


def run_difference(facts: Mapping[str, Any]) -> Screen:
    """Return in what two runs differ, and whether their results do, at most 80 columns.

    Args:
        facts: `names` of the two; `settings` (each `setting`, `a`, `b`), `circumstances` (each
            `fact`, `a`, `b`), `figures` (two each), `num_classes`, `difference`,
            `difference_ci95`, `p_value`, `test_method`, `num_images`, `only_a_right`,
            `only_b_right`, `both_right`, `both_wrong`, `same_decision`.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        first, second = facts["names"]
        changed = [
            {"setting": one["fact"], "first": _shown(one["a"]), "second": _shown(one["b"])}
            for one in facts["circumstances"]
            if one["a"] != one["b"]
        ]
        settings = [
            {"setting": one["setting"], "first": one["a"], "second": one["b"]}
            for one in facts["settings"]
        ]
        same = [one["fact"] for one in facts["circumstances"] if one["a"] == one["b"]]
        parts: list[RenderableType] = [
            terminal.text("Settings that differ", style="bold"),
            difference_table(settings, first=first, second=second),
            terminal.text("What else differs", style="bold"),
            difference_table(changed, first=first, second=second)
            if changed
            else terminal.text("-"),
            terminal.text(f"the same in both: {', '.join(same) or NOTHING}", style="dim"),
            terminal.text("Results", style="bold"),
            _figures(facts, terminal),
        ]
        return Group(*parts, *_sentences(facts, terminal))

    return Screen(build)


def _figures(facts: Mapping[str, Any], terminal: TerminalStyle) -> RenderableType:
    table = new_table(terminal, "")
    table.add_column("")
    for name in facts["names"]:
        table.add_column(terminal.text(name), justify="right", overflow="fold")
    for key, values in facts["figures"].items():
        if key == "top5" and not tells_top5(facts):
            continue
        digits = 4 if key == "loss" else 2
        table.add_row(TITLES[key], *(percent(value, digits=digits) for value in values))
    return table


def _sentences(facts: Mapping[str, Any], terminal: TerminalStyle) -> Iterator[Text]:
    first, second = facts["names"]
    low, high = facts["difference_ci95"]
    yield terminal.text(
        f"{first} - {second}: {facts['difference']:+.2f} points of top-1, 95% interval {low:+.2f} "
        f"to {high:+.2f}, {p_text(facts['p_value'])} ({facts['test_method']})",
        style="bold",
    )
    yield terminal.text(_verdict(facts), style="bold green")
    yield terminal.text(
        f"Of {grouped(facts['num_images'])} images both answer {grouped(facts['both_right'])} "
        f"rightly, only {first} {grouped(facts['only_a_right'])}, only {second} "
        f"{grouped(facts['only_b_right'])}, neither {grouped(facts['both_wrong'])}; they decide "
        f"alike on {grouped(facts['same_decision'])}.",
    )


def _verdict(facts: Mapping[str, Any]) -> str:
    low, high = facts["difference_ci95"]
    if facts["p_value"] >= SIGNIFICANT or low <= 0 <= high:
        return "These images do not distinguish the two."
    better = facts["names"][0 if facts["difference"] > 0 else 1]
    return f"{better} is better on images like these; one run each says nothing about other seeds."


def _shown(value: Any) -> Any:
    """Shorten a digest, whose beginning tells it apart, and a fraction's tail."""
    if isinstance(value, float):
        return f"{value:.6g}"
    is_digest = isinstance(value, str) and len(value) >= 40 and " " not in value
    return f"{value[:DIGEST_SHOWN]}..." if is_digest else value
