"""Tables that list things: datasets, recipes, settings, a dataset's check, weights."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table

from deit_transfer.report.number_format import NOTHING, counts_text, grouped, listed, percent
from deit_transfer.report.terminal_style import Screen, TerminalStyle, facts_table, new_table

Row = Mapping[str, Any]

ACCESS = {
    "embedded": "built in",
    "download": "downloads",
    "on request": "data prepare",
    "by hand": "by hand",
    "address": "you name it",
}
SPLITS = ("train", "val", "test")
NUMBERS = ("classes", *SPLITS, "weights", "size %")
MOST_NAME_WIDTH = 34
ABOUT_WIDTH = 24  # of a dataset's name, title and license; the other columns are narrow
SHOWN_COPIED, SHOWN_CHANGED = 3, 24
SHOWN_PROBLEMS = 20


def dataset_table(rows: Sequence[Row]) -> Screen:
    """Return the catalog: one row a dataset, at most 80 columns.

    Args:
        rows: Each `name`, `title`, `num_classes` (None where the folder decides), `counts`
            (images per split), `license` (shown up to its first semicolon), `found`, where it
            lies (None when it does not), `access`, how one comes by it, and where known
            `size_mb` on disk, with `size_is_whole`, or `download_mb`.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        table = _table(terminal, ("dataset", "classes", *SPLITS, "where"))
        for row in rows:
            terms = (row.get("license") or "").partition(";")[0]
            stated = f"license: {terms}" if terms else ""
            about = terminal.lines(x for x in (row["name"], row["title"], stated) if x)
            counts = [grouped(row["counts"].get(split)) for split in SPLITS]
            place = "here" if row.get("found") else ACCESS.get(row.get("access") or "", "not here")
            where = terminal.lines(x for x in (place, _size(row)) if x)
            table.add_row(about, terminal.text(grouped(row.get("num_classes"))), *counts, where)
        table.columns[0].width = ABOUT_WIDTH
        found = [f"{row['name']}: {row['found']}" for row in rows if row.get("found")]
        return Group(table, *(terminal.text(line) for line in found))

    return Screen(build)


def recipe_table(rows: Sequence[Row]) -> Screen:
    """Return the recipes: one row each, at most 80 columns.

    Args:
        rows: Each `name`, `title`, `model`, and what is known of it, each where it is given:
            `measured`, `minutes`, `paper`.
    """

    def build(terminal: TerminalStyle) -> Table:
        table = _table(terminal, ("recipe, model", "what", "result"))
        for row in rows:
            minutes = row.get("minutes")
            paper = f"paper: {row['paper']}" if row.get("paper") else ""
            known = [row.get("measured"), "" if minutes is None else f"{minutes:g} min", paper]
            table.add_row(
                terminal.lines(x for x in (row["name"], row.get("model")) if x),
                terminal.text(row.get("title") or NOTHING),
                terminal.lines([fact for fact in known if fact] or [NOTHING]),
            )
        _keep_whole(table, [name for row in rows for name in (row["name"], row.get("model"))])
        return table

    return Screen(build)


def difference_table(rows: Sequence[Row], *, first: str, second: str) -> Screen:
    """Return the settings in which two recipes differ, at most 80 columns.

    Args:
        rows: Each `setting`, `first` and `second`, its value on either side; None where unset.
        first: Name of the recipe on the left.
        second: Name of the recipe on the right.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        if not rows:
            return terminal.text(f"{first} and {second} differ in no setting.")
        table = _table(terminal, ("setting", first, second))
        for row in rows:
            cells = [row["setting"], _value(row["first"]), _value(row["second"])]
            table.add_row(*(terminal.text(cell) for cell in cells))
        _keep_whole(table, [row["setting"] for row in rows])
        return table

    return Screen(build)


def check_table(report: Row) -> Screen:
    """Return what a dataset's check found, problems last and in full sentences.

    Args:
        report: `dataset`, `root`, `layout`, `counts`, `class_names`, `problems`, `warnings`,
            `notes`, and `facts`, further (label, value) pairs such as balance and sizes.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        return Group(
            facts_table(terminal, f"Check: {report['dataset']}", _check_facts(report)),
            *_sentences(terminal, "problem", report.get("problems") or [], style="bold red"),
            *_sentences(terminal, "warning", report.get("warnings") or [], style="yellow"),
            terminal.text(_check_verdict(report), style="bold"),
        )

    return Screen(build)


def load_report_table(report: Row) -> Screen:
    """Return what became of each weight of a start: how many, and which ones as examples.

    Args:
        report: `items`, each (key, action, detail) or a mapping with these names, the actions
            copied, interpolated, initialized and dropped; `percents`, the share of the network's
            size by action; `summary`, lines of text. The last two may be left out.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        items = [_item(item) for item in report.get("items") or []]
        table = _table(terminal, ("what became of it", "weights", "size %", "which"))
        for action, count in Counter(action for _, action, _ in items).items():
            keys = [_with_detail(item) for item in items if item[1] == action]
            # what was not copied is the news
            which = listed(keys, most=SHOWN_COPIED if action == "copied" else SHOWN_CHANGED)
            share = percent((report.get("percents") or {}).get(action), digits=2)
            table.add_row(terminal.text(action), grouped(count), share, terminal.text(which))
        return Group(table, *(terminal.text(line) for line in report.get("summary") or []))

    return Screen(build)


def _table(terminal: TerminalStyle, titles: Iterable[str]) -> Table:
    table = new_table(terminal, "")
    for title in titles:
        if title in NUMBERS:
            table.add_column(title, justify="right", no_wrap=True)
        else:
            table.add_column(terminal.text(title), overflow="fold")
    return table


def _keep_whole(table: Table, names: Sequence[str | None]) -> None:
    """Give the first column the width of its names, as long as the others keep theirs."""
    longest = max((cell_len(name or "") for name in names), default=0)
    table.columns[0].width = min(longest, MOST_NAME_WIDTH)


def _size(row: Row) -> str:
    """Return a size on disk, or of the download; a count that was cut short says so."""
    size = row.get("size_mb") or row.get("download_mb")
    if not size:
        return ""
    text = f"{size / 1000:.0f} GB" if size >= 10_000 else f"{size:,.0f} MB"
    return text if row.get("size_is_whole", True) else f">{text}"


def _value(value: object) -> str:
    return NOTHING if value is None else str(value)


def _check_facts(report: Row) -> list[list[tuple[str, RenderableType]]]:
    names = list(report.get("class_names") or [])
    return [
        [
            ("root", str(report.get("root") or "built in")),
            ("layout", str(report.get("layout") or "-")),
            ("images", counts_text(report.get("counts") or {})),
            ("classes", f"{len(names)}: {listed(names, most=10)}"),
        ],
        [(str(label), str(value)) for label, value in report.get("facts") or []],
        [("note", str(note)) for note in report.get("notes") or []],
    ]


def _sentences(
    terminal: TerminalStyle, kind: str, sentences: Sequence[str], *, style: str
) -> Iterable[RenderableType]:
    for sentence in sentences[:SHOWN_PROBLEMS]:
        yield terminal.text(f"{kind}: {sentence}", style=style)
    if len(sentences) > SHOWN_PROBLEMS:
        yield terminal.text(f"and {len(sentences) - SHOWN_PROBLEMS} more of this kind", style=style)


def _check_verdict(report: Row) -> str:
    counts = [
        f"{len(found)} {kind}{'' if len(found) == 1 else 's'}"
        for kind in ("problem", "warning")
        if (found := report.get(f"{kind}s") or [])
    ]
    ready = "" if report.get("problems") else "ready to train on"
    return ", ".join(filter(None, [ready, *counts])).capitalize() + "."


def _item(item: Any) -> tuple[str, str, str]:
    if isinstance(item, Mapping):
        return str(item["key"]), str(item["action"]), str(item.get("detail") or "")
    key, action, detail = item
    return str(key), str(action), str(detail or "")


def _with_detail(item: tuple[str, str, str]) -> str:
    key, _, detail = item
    return f"{key} ({detail})" if detail else key
