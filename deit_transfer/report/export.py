"""Show an export: what it holds, how it compares with the run, how fast it answers."""

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from deit_transfer.report.terminal_style import Screen, TerminalStyle, facts_table, new_table

Facts = Mapping[str, Any]


def export_screen(facts: Facts) -> Screen:
    """Return the table after an export; `facts` as `export.export` returns them."""

    def build(terminal: TerminalStyle) -> RenderableType:
        arrow = terminal.arrow
        asked = [
            ("asked about", facts["asked_of"]),
            ("by", facts["runtime"]),
            ("top-1", f"{_top1(facts['top1_before'])} {arrow} {_top1(facts['top1_after'])}"),
            ("decisions", f"{_share(facts)} equal"),
            ("probabilities", f"at most {facts['most_apart']:.1g} apart"),
        ]
        if "change" in facts:
            low, high = facts["change"]["ci95"]
            change = f"{facts['change']['points']:+.2f} points (95% CI {low:+.2f} to {high:+.2f})"
            asked.insert(3, ("8 bits", f"{change}, tolerance {facts['tolerance']:g}"))
        before, after = facts["latency_before"], facts["latency_after"]
        speeds = [
            (f"batch {size}", f"{_ms(before, size)} {arrow} {_ms(after, size)} ms an image")
            for size in (1, 32)
        ]
        network = f"{facts['model']}, {facts['resolution']} px, {facts['num_classes']} classes"
        written = [
            ("written", facts["path"]),
            ("holds", facts["holds"]),
            ("network", network),
            ("size", f"{facts['bytes'] / 1e6:.1f} MB"),
        ]
        title = f"Export to {facts['to']}: the run {arrow} the file"
        return facts_table(terminal, title, [written, asked, speeds, [("on", facts["hardware"])]])

    return Screen(build)


def push_screen(facts: Facts) -> Screen:
    """Return what was written and where it went; `facts` as `push.push` returns them."""

    def build(terminal: TerminalStyle) -> RenderableType:
        files = [(name, f"{size:,} bytes") for name, size in facts["files"].items()]
        place = facts["address"] or f"nothing was uploaded: {facts['folder']} is what would be"
        where = [("repository", facts["repository"]), ("uploaded", place)]
        return facts_table(terminal, "On the hub", [where, files])

    return Screen(build)


def clean_screen(facts: Facts) -> Screen:
    """Return which runs' checkpoints went; `facts` as `clean.clean_runs` returns them."""

    def build(terminal: TerminalStyle) -> RenderableType:
        would = "would go" if facts["dry_run"] else "removed"
        rows = [(row["run"], f"{would}: {_mb(row['bytes'])}") for row in facts["removed"]]
        rows += [
            (row["run"], f"kept: {_mb(row['bytes'])}, {row['reason']}") for row in facts["kept"]
        ]
        rows.append(("in all", f"{would}: {_mb(facts['bytes'])}"))
        table = new_table(terminal, "Checkpoints of finished runs")
        table.add_column("run", overflow="fold")
        table.add_column("checkpoints", overflow="fold")
        for row in rows:  # names of runs may look like markup
            table.add_row(*(terminal.text(cell) for cell in row))
        return table

    return Screen(build)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _top1(scored: Facts) -> str:
    low, high = scored["ci95"]
    return f"{scored['top1']:.1f} ({low:.1f} to {high:.1f})"


def _share(facts: Facts) -> str:
    return f"{facts['equal_decisions']:,} of {facts['num_images']:,}"


def _ms(latency: Facts, size: int) -> str:
    return f"{latency[f'batch_{size}_ms']:.1f}"
