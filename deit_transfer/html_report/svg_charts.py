"""Line charts as SVG: ticks, and points in the units of the picture.

The page's template draws what is computed here, so that its lines take the page's colors.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deit_transfer.report.number_format import compact

MOST_TICKS = 6
MOST_MARKERS = 40  # more would hide the line


class Frame(NamedTuple):
    """A picture's size, and the edges of the plotting area, in its units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


FRAME = Frame(width=400, height=250, left=46, right=378, top=10, bottom=208)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve by its values; None or a non-finite value leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A position on an axis, in units of the picture, and its label."""

    place: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A point of a line, in units of the picture, and its values as text."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A drawn curve: its path (`M` starts a piece, `L` continues), its points, its last value.

    `markers` is empty where the points are too many to be marked.
    """

    name: str
    path: str
    markers: Sequence[Marker]
    last: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart that is ready to be drawn in FRAME."""

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]

    @property
    def description(self) -> str:
        """Return what the chart shows, for those who cannot see it."""
        said = "; ".join(f"{line.name} ends at {line.last}" for line in self.lines)
        return f"{self.title}, {self.y_title} against {self.x_title}: {said}."


def line_chart(
    curves: Sequence[Curve], *, title: str, x_title: str, y_title: str, digits: int = 1
) -> Chart | None:
    """Return the chart of some curves over one horizontal axis that begins at 0.

    Args:
        curves: Those without a point are left out.
        title: What is shown.
        x_title: Name and unit of the horizontal axis.
        y_title: Name and unit of the vertical axis.
        digits: Decimals of the values that are told in words.

    Returns:
        None where no curve has a point.
    """
    drawn = [(curve, points) for curve in curves if (points := _points(curve))]
    if not drawn:
        return None
    values = [y for _, points in drawn for _, y in points]
    longest = max(x for _, points in drawn for x, _ in points)
    x_ticks = nice_ticks(0.0, longest)
    y_ticks = nice_ticks(min(values), max(values))
    x_scale = _Scale(0.0, max(longest, x_ticks[-1]), FRAME.left, FRAME.right)
    low, high = min(*values, y_ticks[0]), max(*values, y_ticks[-1])
    y_scale = _Scale(low, high, FRAME.bottom, FRAME.top)
    return Chart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        lines=[_line(curve, points, x_scale, y_scale, digits) for curve, points in drawn],
        x_ticks=[Tick(place=x_scale(tick), text=_short(tick)) for tick in x_ticks],
        y_ticks=[Tick(place=y_scale(tick), text=f"{tick:g}") for tick in y_ticks],
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Return two to MOST_TICKS round numbers, evenly apart, that reach over low to high.

    Raises:
        ValueError: An end is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"an axis needs finite ends, got {low} and {high}")
    if high - low <= 1e-9 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    step = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        first, last = math.floor(low / (factor * step)), math.ceil(high / (factor * step))
        if last - first < MOST_TICKS:
            return [round(number * factor * step, 10) for number in range(first, last + 1)]
    raise AssertionError("a step of at least a tenth of the range fits")


def _short(value: float) -> str:
    """Return a round number as an axis shows it: 950, 30k, 2.5M."""
    return re.sub(r"\.0+(?=\D|$)", "", compact(value))


class _Scale:
    """Maps values to units of the picture."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start = low, start
        self._per_value = (end - start) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return round(self._start + (value - self._low) * self._per_value, 2)


def _points(curve: Curve) -> list[tuple[float, float]]:
    pairs = zip(curve.x, curve.y, strict=True)
    return [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]


def _line(
    curve: Curve, points: Sequence[tuple[float, float]], x: _Scale, y: _Scale, digits: int
) -> Line:
    present = set(points)
    pieces, joined = [], False
    for pair in zip(curve.x, curve.y, strict=True):
        if pair not in present:
            joined = False
            continue
        across, up = pair
        assert up is not None
        pieces.append(f"{'L' if joined else 'M'}{x(across):g},{y(up):g}")
        joined = True
    markers = [
        Marker(x=x(across), y=y(up), text=f"{curve.name}: {up:.{digits}f} at {compact(across)}")
        for across, up in points
    ]
    return Line(
        name=curve.name,
        path=" ".join(pieces),
        markers=markers if len(markers) <= MOST_MARKERS else [],
        last=f"{points[-1][1]:.{digits}f}",
    )
