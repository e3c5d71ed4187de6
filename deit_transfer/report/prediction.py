"""Show the predictions for image files."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from deit_transfer.report.number_format import counted, duration, grouped
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table

MOST_ROWS = 200
NARROWEST_PATH = 20


def prediction_table(result: Mapping[str, Any]) -> Screen:
    """Return one row an image, its likeliest classes below one another.

    Args:
        result: `images`, each `image`, `head` and `classes` (the likeliest first) with `class`,
            `percent` and where it is known `name`, the class in words.
    """

    def build(terminal: TerminalStyle) -> RenderableType:
        rows = result["images"]
        if not rows:
            return terminal.text("No image could be read.")
        several = len({row["head"] for row in rows}) > 1
        table = new_table(terminal, "")
        table.add_column("image", overflow="fold", min_width=NARROWEST_PATH)
        if several:
            table.add_column("head", no_wrap=True)
        table.add_column("%", justify="right", no_wrap=True)
        table.add_column("class", overflow="fold")
        for row in rows[:MOST_ROWS]:
            for number, given in enumerate(row["classes"]):
                first = number == 0
                cells: list[Text] = [terminal.text(row["image"] if first else "")]
                cells += [terminal.text(row["head"] if first else "")] * several
                style = "bold" if first else ""
                cells.append(terminal.text(f"{given['percent']:.1f}", style=style))
                cells.append(terminal.text(_called(given), style=style))
                table.add_row(*cells)
            if len(row["classes"]) > 1:
                table.add_section()
        left_out = len(rows) - MOST_ROWS
        more = f"{grouped(left_out)} more are not shown; --csv FILE or --json has all of them"
        return Group(table, *([terminal.text(more)] if left_out > 0 else []))

    return Screen(build)


def pace_line(result: Mapping[str, Any]) -> str:
    """Return how many images were answered, and how fast."""
    images = counted(result["num_answered"], "image")
    pace = f"{result['images_per_second']:,.1f} images/s"
    return f"{images} in {duration(result['seconds'])} ({pace}, decoding included)"


def _called(given: Mapping[str, Any]) -> str:
    return f"{given['name']} ({given['class']})" if given.get("name") else str(given["class"])
