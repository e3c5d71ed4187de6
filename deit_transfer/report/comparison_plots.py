"""Plot the arms of a comparison: learning curves, or accuracy against labels.

Reads no run folder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.report.plot_style import INK, STYLES, Style, drawn_png, quieten

ARM_STYLES = {"scratch": 0, "finetune": 1}
LOG_AXIS_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class Series:
    """The curve of one run, a value per evaluation.

    `label` names a run that is alone in its arm (the arm's name when empty). `epochs` and
    `images_seen` (increasing) are of one length with `val_top1` (percent) and `train_loss`; a
    value that is missing is None and leaves a gap. `test_top1` is the run's final figure.
    """

    label: str
    arm: str
    seed: int
    epochs: Sequence[float]
    images_seen: Sequence[float]
    val_top1: Sequence[float | None]
    train_loss: Sequence[float | None]
    test_top1: float | None = None


def curves_png(
    path: Path,
    series: Sequence[Series],
    *,
    title: str = "",
    paper_top1: Mapping[str, float] | None = None,
) -> None:
    """Draw validation top-1 and training loss against images seen, and write the PNG whole.

    Each arm is a mean line over its seeds, a band from its lowest to its highest seed, and a
    thin line a seed. Images seen are the axis because epochs of different arms may differ.

    Args:
        path: Where the PNG appears, or is replaced.
        series: At least one run; runs of one arm share a color.
        paper_top1: The paper's test figure by arm, each a dashed horizontal line.

    Raises:
        ValueError: There is no series.
        ResourceError: The disk is full.
    """
    if not series:
        raise ValueError("a plot needs at least one series")
    papers = paper_top1 or {}
    drawn_png(path, partial(_draw, series=series, title=title, paper_top1=papers), size=(12, 6))


def efficiency_png(path: Path, points: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Draw every arm's top-1 against the number of labeled images, and write the PNG whole.

    Labels are on a logarithmic axis; each mean stands with its 95% interval.

    Args:
        path: Where the PNG appears, or is replaced.
        points: In ascending order of labels, at least one: `fraction`, `labels`, and `arms`
            (each `arm`, `top1_mean`, `top1_ci95`).

    Raises:
        ValueError: There are no points.
        ResourceError: The disk is full.
    """
    if not points:
        raise ValueError("a plot needs at least one size")
    drawn_png(path, partial(_draw_efficiency, points=points, title=title), size=(9, 6.4))


def _draw(
    figure: Any, series: Sequence[Series], *, title: str, paper_top1: Mapping[str, float]
) -> None:
    accuracy, loss = figure.subplots(1, 2)
    if title:
        figure.suptitle(title, parse_math=False, fontsize=15, fontweight="bold", color=INK)
    styles = _styles([*(one.arm for one in series), *paper_top1])
    for arm in dict.fromkeys(one.arm for one in series):
        runs = [one for one in series if one.arm == arm]
        label = _arm_label(arm, runs)
        _draw_arm(accuracy, [_points(run, run.val_top1) for run in runs], styles[arm], label)
        _draw_arm(loss, [_points(run, run.train_loss) for run in runs], styles[arm], label)
    for arm, top1 in paper_top1.items():
        label = f"the paper, {arm}: {top1:.1f} (test)"
        accuracy.axhline(top1, color=styles[arm].color, linestyle=(0, (6, 4)), label=label)
    for axes, name, unit in (
        (accuracy, "Top-1 on validation images", "top-1 (%)"),
        (loss, "Training loss", "loss"),
    ):
        _dress(axes, name, unit)
        _scale_images(axes, series)
    _legend(figure, accuracy if accuracy.lines else loss)


def _draw_efficiency(figure: Any, points: Sequence[Mapping[str, Any]], *, title: str) -> None:
    axes = figure.subplots()
    if title:
        figure.suptitle(title, parse_math=False, fontsize=15, fontweight="bold", color=INK)
    arms = list(dict.fromkeys(arm["arm"] for point in points for arm in point["arms"]))
    styles = _styles(arms)
    for place, name in enumerate(arms):
        found = [
            (point["labels"], arm["top1_mean"], *arm["top1_ci95"])
            for point in points
            for arm in point["arms"]
            if arm["arm"] == name
        ]
        labels, means, lows, highs = np.array(found, np.float64).T  # (S,) each
        # arms stand a little apart, so that their intervals do not hide one another
        moved = labels * (1 + 0.02 * (place - (len(arms) - 1) / 2))
        axes.errorbar(
            moved,
            means,
            yerr=np.stack([means - lows, highs - means]).clip(min=0),
            color=styles[name].color,
            marker=styles[name].marker,
            markersize=7,
            linewidth=2.4,
            elinewidth=1.4,
            capsize=4,
            label=name,
        )
    _dress(axes, "Top-1 on test images, with 95% intervals", "top-1 (%)")
    _scale_labels(axes, points)
    _legend(figure, axes)


def _scale_labels(axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
    """Write each size at its place: the number of labels, and its share of all."""
    from matplotlib.ticker import FixedLocator, NullLocator

    labels = [point["labels"] for point in points]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(labels))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{point['labels']:,}\n{100 * point['fraction']:g}%" for point in points])
    axes.set_xlabel("labeled images, and their share of all (log scale)", color=INK)


def _styles(arms: Sequence[str]) -> dict[str, Style]:
    """Return each arm's style; the known arms look the same in every figure."""
    others = [arm for arm in dict.fromkeys(arms) if arm not in ARM_STYLES]
    places = {arm: len(ARM_STYLES) + place for place, arm in enumerate(others)}
    return {arm: STYLES[(ARM_STYLES | places)[arm] % len(STYLES)] for arm in arms}


def _arm_label(arm: str, runs: Sequence[Series]) -> str:
    tests = [run.test_top1 for run in runs if run.test_top1 is not None]
    test = f", test {sum(tests) / len(tests):.1f}" if tests else ""
    if len(runs) == 1:
        return f"{runs[0].label or arm}, 1 seed{test}"
    return f"{arm}, mean and range of {len(runs)} seeds{test}"


def _points(run: Series, values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return the points (N, 2) of a curve that are there."""
    pairs = zip(run.images_seen, values, strict=True)
    kept = [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]
    return np.array(kept, np.float64).reshape(-1, 2)


def _draw_arm(axes: Any, curves: Sequence[NDArray[np.float64]], style: Style, label: str) -> None:
    present = [curve for curve in curves if len(curve)]
    if not present:
        return
    grid, values = _on_one_grid(present)  # (G,), (seeds, G)
    if len(present) > 1:
        for curve in present:
            axes.plot(curve[:, 0], curve[:, 1], color=style.color, linewidth=0.8, alpha=0.45)
        axes.fill_between(
            grid, values.min(0), values.max(0), color=style.color, alpha=0.16, linewidth=0
        )
    axes.plot(
        grid,
        values.mean(0),
        color=style.color,
        marker=style.marker,
        markersize=5.5,
        markevery=max(1, len(grid) // 10),
        linewidth=2.4,
        label=label,
    )


def _on_one_grid(
    curves: Sequence[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the images seen (G,) that all curves reach, and the curves there (seeds, G)."""
    first = max(curve[0, 0] for curve in curves)
    last = min(curve[-1, 0] for curve in curves)
    grid = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    shared = grid[(grid >= first) & (grid <= last)]
    # seeds that share no stretch of the axis have no mean; the longest one speaks for the arm
    if not len(shared):
        longest = max(curves, key=len)
        return longest[:, 0], longest[None, :, 1]
    return shared, np.stack([np.interp(shared, curve[:, 0], curve[:, 1]) for curve in curves])


def _dress(axes: Any, title: str, unit: str) -> None:
    if not axes.lines:
        middle = axes.transAxes
        axes.text(0.5, 0.5, "none recorded", transform=middle, ha="center", color=INK)
        axes.set_yticks([])
    axes.set_title(title, loc="left", color=INK)
    axes.set_ylabel(unit, color=INK)
    quieten(axes)


def _scale_images(axes: Any, series: Sequence[Series]) -> None:
    """Label the images seen, from 0; on a log axis where one arm is far longer than another."""
    from matplotlib.ticker import EngFormatter

    lengths = [max(one.images_seen) for one in series if len(one.images_seen)]
    first = min((min(one.images_seen) for one in series if len(one.images_seen)), default=0)
    far_apart = first > 0 and max(lengths) > LOG_AXIS_RATIO * min(lengths)
    if far_apart:
        axes.set_xscale("log")
        _tick_log(axes)
    elif lengths:
        axes.set_xlim(0, 1.03 * max(lengths))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("images seen (log scale)" if far_apart else "images seen", color=INK)
    _add_epochs(axes, series, log=far_apart)


def _add_epochs(axes: Any, series: Sequence[Series], *, log: bool) -> None:
    """Count epochs along the top, where an epoch holds the same images in every run."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    sizes = {
        round(seen / epoch)
        for one in series
        for seen, epoch in zip(one.images_seen, one.epochs, strict=True)
        if epoch
    }
    if len(sizes) != 1 or not (size := sizes.pop()):
        return
    top = axes.secondary_xaxis("top", functions=(lambda seen: seen / size, lambda e: e * size))
    if log:
        _tick_log(top)
    else:
        top.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    top.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    top.set_xlabel("epochs", color=INK)


def _tick_log(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = min(2, len(handles))
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.6
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
