"""Render the values of a page as one self-contained HTML file.

The templates beside this file hold the markup. Every text is escaped by Jinja's autoescape, and
control codes in it are spelled out, before it reaches the page: names of classes and files come
from disk and may hold anything. The page forbids itself scripts and loads by its own policy.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deit_transfer.html_report.page_values import ComparisonPage, DatasetsPage, RunPage
from deit_transfer.html_report.svg_charts import FRAME
from deit_transfer.report.number_format import grouped, percent
from deit_transfer.report.terminal_style import printable

if TYPE_CHECKING:
    from jinja2 import Environment

# how a page of ours is told from other files when it is to be replaced
GENERATOR = "deit-transfer report"
MOST_OPEN_ROWS = 25


def run_html(page: RunPage) -> str:
    """Return the page about one run."""
    return _render("run.html", page)


def comparison_html(page: ComparisonPage) -> str:
    """Return the page about a comparison."""
    return _render("comparison.html", page)


def datasets_html(page: DatasetsPage) -> str:
    """Return the page about comparisons on several datasets."""
    return _render("datasets.html", page)


def is_report(text: str) -> bool:
    """Return whether a file begins like a page of this program."""
    return f'<meta name="generator" content="{GENERATOR}">' in text


def _render(template: str, page: RunPage | ComparisonPage | DatasetsPage) -> str:
    return _environment().get_template(template).render(page=page)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled_out,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "grouped": grouped}
    environment.globals |= {
        "generator": GENERATOR,
        "frame": FRAME,
        "most_open_rows": MOST_OPEN_ROWS,
    }
    return environment


def _spelled_out(value: Any) -> Any:
    # markup is of our own making; only bare text can hold a control code
    return printable(value) if type(value) is str else value
