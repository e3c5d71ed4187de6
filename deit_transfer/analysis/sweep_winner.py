"""Statistics of a sweep: its winner, how sure that is, and differences from a default.

Trials are judged on validation images alone. Knows no recipe, run or test figure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deit_transfer.analysis.statistics import Interval, wilson_interval

Row = Mapping[str, Any]
FINISHED = "done"


def find_winner(rows: Sequence[Row]) -> Row | None:
    """Return the finished trial with the highest validation top-1, the earliest of equal ones."""
    finished = [row for row in rows if row["state"] == FINISHED]
    return max(finished, key=lambda row: (row["val_top1"], -row["trial"]), default=None)


def interval_of(top1: float, n: int) -> Interval:
    """Return Wilson's 95% interval of a top-1 in percent over n images."""
    return wilson_interval(round(top1 * n / 100), n)


def rivals(rows: Sequence[Row], winner: Row, *, num_images: int) -> list[int]:
    """Return the other finished trials whose difference from the winner may be chance."""
    return [
        row["trial"]
        for row in rows
        if row["state"] == FINISHED
        and row["trial"] != winner["trial"]
        and difference(winner["val_top1"], row["val_top1"], n=num_images).low <= 0
    ]


def difference(top1: float, baseline: float, *, n: int) -> Interval:
    """Return the 95% interval of the difference of two top-1 in points, each over n images.

    The images are the same but the answers are taken as unrelated, for only the figures are
    known: the interval is wider than one that pairs the images.

    Source: Newcombe, Stat. Med. 17 (1998), 873-890, method 10.
    """
    ours, theirs = interval_of(top1, n), interval_of(baseline, n)
    delta = top1 - baseline
    low = delta - math.hypot(top1 - ours.low, theirs.high - baseline)
    return Interval(low, delta + math.hypot(ours.high - top1, baseline - theirs.low))


def search_labels(rows: Sequence[Row], winner: Row | None, *, num_images: int) -> list[str]:
    """Return the cautions that follow from the numbers themselves."""
    finished = sum(row["state"] == FINISHED for row in rows)
    if winner is None or finished < 2:
        return []
    labels = [
        f"the winner's validation accuracy is the best of {finished} and so flatters it; "
        "the test figure had no part in the choice"
    ]
    if close := rivals(rows, winner, num_images=num_images):
        others = finished - 1
        which = "the other" if others == 1 else f"{len(close)} of the {others} other"
        trials, images = ("" if number == 1 else "s" for number in (others, num_images))
        labels.append(
            f"{which} finished trial{trials} cannot be distinguished from the winner on "
            f"{num_images:,} validation image{images}"
        )
    return labels
