"""Format numbers: counts, percent, times, rates; each short, of bounded width."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "-"


def grouped(count: float | None) -> str:
    """Return a count with its thousands apart: 45,000."""
    return NOTHING if count is None else f"{count:,.0f}"


def counted(count: int, noun: str) -> str:
    """Return a count with what is counted: 1 image, 2,000 images."""
    return f"{grouped(count)} {noun}{'' if count == 1 else 's'}"


def tells_top5(result: Mapping[str, Any]) -> bool:
    """Return whether top-5 is informative: with five classes or fewer it is always 100%."""
    num_classes = result.get("num_classes")
    return num_classes is None or num_classes > 5


def compact(count: float | None) -> str:
    """Return a count in at most five characters: 950, 12.3k, 1.25M, 3.40G."""
    if count is None or not math.isfinite(count):
        return NOTHING
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,960 would round to 1000.0k
        if count >= size * 0.99995:
            scaled = count / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{sign}"
    return f"{count:.0f}" if count >= 99.95 or count == int(count) else f"{count:.1f}"


def percent(value: float | None, *, digits: int = 1) -> str:
    """Return a figure in 0-100 with fixed digits."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Return a time in at most six characters: 0.4s, 42s, 12m03s, 5h07m, 3d04h, 120d."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02d}h" if hours < 2400 else f"{hours // 24}d"


def rate(value: float | None) -> str:
    """Return a learning rate in short scientific form: 5e-4, 6.25e-5, 0."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def p_text(p_value: float | None) -> str:
    """Return a p-value as it is read: p = 0.012, p < 0.001."""
    if p_value is None:
        return "no p-value"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def listed(names: Sequence[str], *, most: int) -> str:
    """Return the first names and how many more there are."""
    shown = ", ".join(str(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def counts_text(counts: Mapping[str, int]) -> str:
    """Return the images of each split: train 45,000, val 5,000, test 10,000."""
    return ", ".join(f"{split} {grouped(count)}" for split, count in counts.items())
