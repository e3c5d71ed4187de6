"""The values of a page about a run or a comparison, as the templates use them.

Percent in 0-100. Texts come as they are; escaping them is the template's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deit_transfer.html_report.svg_charts import Chart
from deit_transfer.html_report.thumbnails import Thumbnail

Fact = tuple[str, str]


class HeadRow(NamedTuple):
    """The metrics of one head on the test images, with the 95% interval of its top-1.

    `top5` is None where there are so few classes that it says nothing.
    """

    name: str
    top1: float
    low: float
    high: float
    top5: float | None
    mean_per_class: float
    loss: float


class ClassRow(NamedTuple):
    """The metrics of one class; `images` is its support."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


class ConfusedRow(NamedTuple):
    """A pair of classes that was confused; `percent` is of the true class's images."""

    true: str
    given: str
    images: int
    percent: float


class MatrixCell(NamedTuple):
    """A cell of a confusion matrix; `heat` (0 to 1) is the strength of its color."""

    images: int
    percent: float
    heat: float
    right: bool


class MatrixRow(NamedTuple):
    """A row of a confusion matrix: a true class and the predicted classes."""

    name: str
    cells: Sequence[MatrixCell]


class MistakePicture(NamedTuple):
    """A misclassified image; `given_percent` and `true_percent` are the
    probabilities of the answer and of the truth. Without a picture, `picture` is None."""

    name: str
    true: str
    given: str
    given_percent: float
    true_percent: float
    loss: float
    picture: Thumbnail | None


class AttentionMap(NamedTuple):
    """One token's attention, drawn over the image."""

    caption: str
    picture: Thumbnail


class AttentionRow(NamedTuple):
    """An image and its attention maps."""

    caption: str
    picture: Thumbnail
    maps: Sequence[AttentionMap]


class SettingRow(NamedTuple):
    """A setting in which a run differs from the recipe that it was made from."""

    setting: str
    value: str
    default: str


class Table(NamedTuple):
    """A plain table: column titles, and rows whose first cell names the row."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The page of one run; what is empty or None is left out.

    `sentences` begin with the answer; `classes` are in label order; `recipe` is its lines.
    """

    anchor: str
    title: str
    folder: str
    sentences: Sequence[str]
    cautions: Sequence[str]
    facts: Sequence[Fact]
    heads: Sequence[HeadRow]
    charts: Sequence[Chart]
    epochs: Table
    classes: Sequence[ClassRow]
    matrix: Sequence[MatrixRow]
    confused: Sequence[ConfusedRow]
    wrong: int
    sure_and_wrong: int
    worst: Sequence[MistakePicture]
    confident: Sequence[MistakePicture]
    pictures_note: str
    attention: Sequence[AttentionRow]
    recipe_base: str
    settings: Sequence[SettingRow]
    recipe: Sequence[str]
    environment: Sequence[Fact]
    provenance: Sequence[Fact]


class ArmRow(NamedTuple):
    """One arm of a comparison: its scores as text, and the position of its bar and interval.

    `interval` says over what the interval is taken. `low` and `high` are None without one.
    """

    name: str
    top1: float
    low: float | None
    high: float | None
    interval: str
    cells: Sequence[str]
    best: bool


class DatasetAnswer(NamedTuple):
    """The result of the comparison on one dataset in words, and a link to it."""

    dataset: str
    answer: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class DatasetsPage:
    """Comparisons on several datasets: a table of top-1, and the result on each."""

    title: str
    table: Table
    answers: Sequence[DatasetAnswer]
    failed: Sequence[str]
    cautions: Sequence[str]


class Figure(NamedTuple):
    """A plot that was drawn before, and its caption."""

    caption: str
    source: str


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """The page of a comparison.

    `answer` is the comparison in words, `sentences` go on from it; `differences` hold one line
    each; `arm_titles` name the cells of `arms`; `classes` are top-1 by class (rows) and arm
    (columns); `tables` are further titled tables.
    """

    title: str
    answer: str
    sentences: Sequence[str]
    differences: Sequence[str]
    cautions: Sequence[str]
    arm_titles: Sequence[str]
    arms: Sequence[ArmRow]
    charts: Sequence[Chart]
    figures: Sequence[Figure]
    tables: Sequence[tuple[str, Table]]
    classes: Table
    runs: Sequence[RunPage]
    missing_runs: Sequence[str]
    setup: Sequence[Fact]
