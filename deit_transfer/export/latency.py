"""Time two runtimes on the same photo, in turns, so that other work slows both alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deit_transfer.data.pipeline.image_ops import Pixels

BATCHES = (1, 32)
REPEATS = {1: 15, 32: 3}

Answer = Callable[[Sequence[Pixels]], Any]


def measure_latency(runtimes: Mapping[str, Answer], photo: Pixels) -> dict[str, dict[str, float]]:
    """Return the median milliseconds an image of each runtime, at each batch size.

    Args:
        runtimes: By name, functions of decoded photos: view and network.
        photo: (H, W, 3) uint8; a batch is this one repeated.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in runtimes}
    for batch in BATCHES:
        photos = [photo] * batch
        times: dict[str, list[float]] = {name: [] for name in runtimes}
        for turn in range(REPEATS[batch] + 1):
            for name, answer in runtimes.items():
                start = time.perf_counter()
                answer(photos)
                if turn:  # the first warms up
                    times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            found[name][f"batch_{batch}_ms"] = 1000 * statistics.median(seconds) / batch
    return found
