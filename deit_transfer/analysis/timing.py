"""Throughput statistics: the batch size to time, and the median over repeated runs.

B is the number of images in a batch. The work is given as a function, so that it may be anything.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# the largest batch is found to this share of itself: closer changes no speed that is worth a try
BATCH_TOLERANCE = 8


class BatchTooLargeError(Exception):
    """A batch does not fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Throughput over repeated runs of one batch, in images a second.

    `mean` is B over the mean time of a run, as in section 5.3 of the paper; `sd` (0 for a single
    run), `slowest` and `fastest` are those of the runs' own speeds.
    """

    mean: float
    sd: float
    slowest: float
    fastest: float
    repeats: int


def largest_batch(try_batch: Callable[[int], object], *, most: int) -> int:
    """Return the largest batch that fits: doubled until it does not, then halving the gap.

    Args:
        try_batch: Runs a batch of so many images; raises BatchTooLargeError where it does not fit.
        most: Where doubling ends, at least 1.

    Returns:
        The batch, to an eighth of itself; 0 where not even one image fits.
    """
    fits, too_large = 0, most + 1
    size = 1
    while size <= most:
        if not _fits(try_batch, size):
            too_large = size
            break
        fits, size = size, size * 2
    while too_large - fits > max(1, fits // BATCH_TOLERANCE):
        size = (fits + too_large) // 2
        if _fits(try_batch, size):
            fits = size
        else:
            too_large = size
    return fits


def fastest_batch(
    seconds_of_batch: Callable[[int], float], sizes: Sequence[int], *, fits: Callable[[int], bool]
) -> int:
    """Return the batch with the most images a second among those that fit.

    A processor gains nothing from the largest batch that memory holds, so the fastest is taken.

    Args:
        seconds_of_batch: Runs a batch and returns its seconds; raises BatchTooLargeError where it
            does not fit.
        sizes: Batches to try, growing; the first that does not fit ends the search.
        fits: Says before a batch is tried whether memory will hold it.

    Returns:
        The batch; 0 where not even the first fits.
    """
    speeds: dict[int, float] = {}
    for size in sizes:
        if not fits(size):
            break
        try:
            speeds[size] = size / max(seconds_of_batch(size), 1e-9)
        except BatchTooLargeError:
            break
    return max(speeds, key=lambda size: speeds[size], default=0)


def throughput(seconds: Sequence[float], *, batch_size: int) -> Throughput:
    """Return the speed that the times of repeated runs of one batch amount to.

    Args:
        seconds: Time of each run, above 0; at least one.
        batch_size: B.

    Raises:
        ValueError: There are no times.
    """
    if not seconds:
        raise ValueError("a speed needs at least one timed run")
    speeds = [batch_size / time_s for time_s in seconds]
    return Throughput(
        mean=batch_size / statistics.fmean(seconds),
        sd=statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
        slowest=min(speeds),
        fastest=max(speeds),
        repeats=len(speeds),
    )


def _fits(try_batch: Callable[[int], object], size: int) -> bool:
    try:
        try_batch(size)
    except BatchTooLargeError:
        return False
    return True
