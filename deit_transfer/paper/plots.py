"""Plot the paper's Figures 1 and 3 with our values beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deit_transfer.paper.values import HERE, PAPER
from deit_transfer.report.plot_style import INK, STYLES, drawn_png, dress, log_speeds

FAMILIES = ("ResNet", "RegNetY", "EfficientNet", "ViT", "DeiT")
DISTILLED = "DeiT distilled"
Point = tuple[float, float, str]


def figure1_png(path: Path, facts: Mapping[str, Any]) -> None:
    """Draw accuracy against throughput: the paper's on its machine, and ours on ours.

    Args:
        path: The PNG.
        facts: `rows`, each `name`, `paper` and `here`: images a second, then top-1.
    """
    paper = [(row["name"], *row["paper"]) for row in facts["rows"]]
    here = [
        (row["name"], row["here"][0]["value"], row["here"][1]["value"])
        for row in facts["rows"]
        if all(cell is not None and cell["value"] is not None for cell in row["here"])
    ]

    def draw(figure: Any) -> None:
        panels = [(paper, f"{PAPER}: one 16 GB V100")]
        panels += [(here, "Here: another machine")] if here else []
        for axes, (points, title) in zip(_side_by_side(figure, len(panels)), panels, strict=True):
            _draw_families(axes, points)
            dress(axes, title=title, x="images a second (log scale)", y="ImageNet top-1 (%)")
            log_speeds(axes, [speed for _, speed, _ in points])

    drawn_png(path, draw, size=(9 if not here else 16, 6.5))


def figure3_png(path: Path, facts: Mapping[str, Any]) -> None:
    """Draw accuracy against the length of training, plain and distilled, paper's and ours.

    Args:
        path: The PNG.
        facts: `rows`, each `paper` and `here`: epochs, then top-1 plain and distilled.
    """

    from matplotlib.ticker import MaxNLocator

    def draw(figure: Any) -> None:
        sides = {whose: _lengths(facts, whose) for whose in ("paper", "here")}
        of = next((note for note in facts["notes"] if note.startswith(HERE)), HERE)
        titles = {"paper": f"{PAPER}, DeiT-B on ImageNet", "here": of.capitalize()}
        shown = [whose for whose, curves in sides.items() if any(curves)]
        for axes, whose in zip(_side_by_side(figure, len(shown)), shown, strict=True):
            for curve, name, style in zip(
                sides[whose], ("plain", "distilled"), STYLES, strict=False
            ):
                if curve:
                    x, y = zip(*sorted(curve), strict=True)
                    axes.plot(
                        x, y, color=style.color, marker=style.marker, linewidth=2.2, label=name
                    )
            dress(axes, title=titles[whose], x="epochs", y="top-1 (%)")
            axes.margins(0.12)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            axes.legend(frameon=False, loc="lower right")

    num_panels = 1 + any(_lengths(facts, "here"))
    drawn_png(path, draw, size=(8 * num_panels, 5.5))


def _side_by_side(figure: Any, count: int) -> list[Any]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _draw_families(axes: Any, points: list[tuple[str, float, float]]) -> None:
    named: dict[str, list[Point]] = {}
    for name, speed, top1 in points:
        named.setdefault(_family(name), []).append((speed, top1, name))
    order = [*FAMILIES, DISTILLED]
    for family in (family for family in order if family in named):
        style = STYLES[order.index(family) % len(STYLES)]
        distilled = family == DISTILLED
        # one size at a time: models fine-tuned at another one stand apart from the line
        line = [(x, y) for x, y, name in sorted(named[family]) if "at 384" not in name]
        color = INK if distilled else style.color
        if len(line) > 1:
            x, y = zip(*line, strict=True)
            axes.plot(x, y, color=color, linewidth=1.6, alpha=0.8)
        x, y, names = zip(*named[family], strict=True)
        marker = "*" if distilled else style.marker
        axes.scatter(x, y, color=color, marker=marker, s=130 if distilled else 55, label=family)
        for speed, top1, name in zip(x, y, names, strict=True):
            axes.annotate(
                _short(name),
                (speed, top1),
                xytext=(6, 5 if distilled else -12),
                textcoords="offset points",
                fontsize=9,
                color=INK,
            )
    axes.legend(frameon=False, loc="lower left", fontsize=11)


def _family(name: str) -> str:
    if name.startswith("DeiT") and "distilled" in name:
        return DISTILLED
    return next(family for family in FAMILIES if name.startswith(family))


def _short(name: str) -> str:
    """Return what tells a network apart in its family: B, B at 384."""
    rest = name.replace(" distilled", "").partition("-")[2]
    return rest.replace(" at 384", " 384").replace(", 1000 epochs", ", 1000 ep.")


def _lengths(facts: Mapping[str, Any], whose: str) -> tuple[list[tuple[float, float]], ...]:
    """Return the points of the plain and the distilled curve that are there."""
    curves: tuple[list[tuple[float, float]], ...] = ([], [])
    for row in facts["rows"]:
        cells = row[whose]
        if cells is None:
            continue
        values = [cell["value"] if isinstance(cell, Mapping) else cell for cell in cells]
        for curve, top1 in zip(curves, values[1:], strict=True):
            if top1 is not None and values[0] is not None:
                curve.append((float(values[0]), float(top1)))
    return curves
