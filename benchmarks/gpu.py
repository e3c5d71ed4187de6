"""Measure training and scoring on a GPU against timm and against what the GPU can do, in minutes.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --device cpu --small   # checks the script itself where there is none

Prints every row as soon as it is known: the matrix-product rate of the device, measured here; then,
for DeiT-Ti, S and B, the training step of timm with autocast and of this program, as they are and
compiled, in turns, with the share of the matrix-product rate and the peak memory; scoring; and the
second epoch of a real run on generated JPEG files, small ones and photographs, against the same
steps on images that are there already. What --minutes does not leave time for is named as left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import NUM_BATCHES, our_scoring, timm_scoring
from machine import Work, describe_machine, wait_for
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_step import made_up, our_step, timm_step

from deit_transfer.engine.precision import Precision, resolve_device, resolve_precision
from deit_transfer.models.classifier import build_classifier

STEPS = (
    ("deit_tiny_patch16_224", 64),
    ("deit_small_patch16_224", 256),
    ("deit_base_patch16_224", 128),
)
SCORING = ("deit_tiny_patch16_224", 512)
SMALL_MODEL, SMALL_BATCH, SMALL_SIDE = "deit_micro", 8, 32
NUM_CLASSES = 10
WARM_UP = 3
PHOTO = (375, 500)


class Table:
    """The rows so far: printed when they are known, and written to --out after each."""

    def __init__(self, out: Path | None, minutes: float) -> None:
        self.out = out
        self.rows: list[dict[str, Any]] = []
        self.deadline = time.monotonic() + 60 * minutes

    def add(self, work: str, side: str, **values: float | str) -> None:
        self.rows.append({"work": work, "side": side, **values})
        shown = "  ".join(
            f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in values.items()
        )
        print(f"{work:34} {side:24} {shown}", flush=True)
        if self.out is not None:
            self.out.write_text(
                json.dumps({"machine": describe_machine(), "rows": self.rows}, indent=2) + "\n"
            )

    def has_time(self, work: str) -> bool:
        """Return whether there is time for more; else say what is left out."""
        if time.monotonic() < self.deadline:
            return True
        self.add(work, "left out", reason="no time is left")
        return False


def matmul_flops_per_second(device: torch.device, precision: Precision, size: int) -> float:
    """Return the floating-point operations a second of a square product, the best of ten."""
    left = torch.randn(size, size, device=device, dtype=precision.dtype)
    right = torch.randn(size, size, device=device, dtype=precision.dtype)
    best = 0.0
    for _ in range(10):
        wait_for(device)
        started = time.perf_counter()
        for _ in range(5):
            left @ right
        wait_for(device)
        best = max(best, 5 * 2 * size**3 / (time.perf_counter() - started))
    return best


def step_flops_per_image(name: str, resolution: int) -> float:
    """Return the floating-point operations of one image forward and backward, counted by torch."""
    classifier = build_classifier(name=name, num_classes=NUM_CLASSES, resolution=resolution)
    images, targets = made_up(2, resolution, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        loss = nn.functional.cross_entropy(classifier(images).class_logits, targets)
        loss.backward()
    return counter.get_total_flops() / len(images)


def compare(
    table: Table,
    work: str,
    sides: Mapping[str, Callable[[], Work]],
    *,
    images: int,
    device: torch.device,
    rounds: int,
    share_of: Callable[[float], float] | None = None,
) -> dict[str, float]:
    """Time sides in turns in this process, add their rows, and return their images a second.

    Args:
        table: Takes the rows; the ratio of each is to the first side.
        work: What is done.
        sides: By name, what prepares the work.
        images: In one round's work.
        device: Where it is done.
        rounds: Timed rounds, after some to warm up.
        share_of: From images a second to the share of the matrix-product rate.
    """
    ready: dict[str, Work] = {}
    memory: dict[str, float] = {}
    for side, prepare in sides.items():
        if not table.has_time(f"{work}, {side}"):
            break
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        try:
            ready[side] = prepare()
            for _ in range(WARM_UP):
                ready[side]()
        except Exception as error:  # one side that fails does not lose the others
            ready.pop(side, None)
            table.add(work, side, failed=" ".join(str(error).split())[:200])
            continue
        if device.type == "cuda":
            memory[side] = (torch.cuda.max_memory_allocated() - before) / 2**20
    seconds: dict[str, list[float]] = {side: [] for side in ready}
    for _ in range(rounds):
        for side, once in ready.items():
            started = time.perf_counter()
            once()
            seconds[side].append(time.perf_counter() - started)
    rates = {side: images / statistics.median(times) for side, times in seconds.items()}
    for side, rate in rates.items():
        first = next(iter(rates))
        pairs = zip(seconds[first], seconds[side], strict=True)
        values: dict[str, float | str] = {"img/s": rate}
        if side != first:
            values["ratio"] = statistics.median(theirs / ours for theirs, ours in pairs)
        if share_of is not None:
            values["of matmul rate"] = share_of(rate)
        if side in memory:
            values["MiB"] = memory[side]
        table.add(work, side, **values)
    return rates


def write_images(folder: Path, *, count: int, height: int, width: int) -> None:
    """Write train/ and test/ with JPEG files of smooth noise, as large as real ones are."""
    rng = np.random.default_rng(0)
    for split, share in (("train", count), ("test", NUM_CLASSES)):
        for number in range(share):
            path = folder / split / f"class{number % NUM_CLASSES}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (max(2, height // 4), max(2, width // 4), 3), np.uint8)
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


def loader_rate(tree: Path, *, model: str, batch_size: int, resolution: int, device: str) -> float:
    """Return the images a second of a real run's second epoch."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            *(sys.executable, "-m", "deit_transfer", "scratch", str(tree), "--model", model),
            *("--resolution", str(resolution), "--epochs", "2", "--batch-size", str(batch_size)),
            *("--set", "schedule.progressive=[]", "--set", "schedule.min_steps=0"),
            *("--recipe", "scratch/folder", "--device", device),
            *("--out", out, "--name", "run", "--json", "--quiet"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(out) / "run" / "metrics.jsonl").read_text().splitlines()
        return float(json.loads(lines[-1])["images_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=5.0, help="begin nothing after so many")
    parser.add_argument("--out", type=Path, help="JSON file with all rows")
    parser.add_argument("--small", action="store_true", help="tiny sizes: checks the script only")
    given = parser.parse_args()
    device = resolve_device(given.device)
    precision = resolve_precision("auto", device)
    table = Table(given.out, given.minutes)
    print(describe_machine())
    peak = matmul_flops_per_second(device, precision, 256 if given.small else 8192)
    table.add("square matrix product", precision.name, **{"TFLOP/s": peak / 1e12})
    rounds, side = (3, SMALL_SIDE) if given.small else (20, 224)
    eager: dict[str, float] = {}
    for name, batch_size in [(SMALL_MODEL, SMALL_BATCH)] if given.small else STEPS:
        shared = {
            "name": name,
            "batch_size": batch_size,
            "resolution": side,
            "device_name": given.device,
        }
        sides: dict[str, Callable[[], Work]] = {}
        if not given.small:  # timm does not know our smallest network
            sides["timm"] = partial(timm_step, **shared, autocast=True)
        sides["ours"] = partial(our_step, **shared)
        if not given.small:
            sides["timm, compiled"] = partial(timm_step, **shared, autocast=True, compiled=True)
        sides["ours, compiled"] = partial(our_step, **shared, compiled=True)
        if device.type == "cuda":
            sides["ours, captured"] = partial(our_step, **shared, captured=True)
            both = partial(our_step, **shared, compiled=True, captured=True)
            sides["ours, compiled, captured"] = both
        flops = step_flops_per_image(name, side)
        rates = compare(
            table,
            f"training {name}, {batch_size}",
            sides,
            images=batch_size,
            device=device,
            rounds=rounds,
            share_of=lambda rate, flops=flops: rate * flops / peak,
        )
        eager[name] = rates.get("ours", float("nan"))
    name, batch_size = (SMALL_MODEL, SMALL_BATCH) if given.small else SCORING
    shared = {
        "name": name,
        "batch_size": batch_size,
        "resolution": side,
        "device_name": given.device,
    }
    sides = {} if given.small else {"timm": partial(timm_scoring, **shared, autocast=True)}
    sides["ours"] = partial(our_scoring, **shared)
    compare(
        table,
        f"scoring {name}, {batch_size}",
        sides,
        images=NUM_BATCHES * batch_size,
        device=device,
        rounds=rounds,
    )
    for kind, (height, width), (name, batch_size), count in (
        ("small images", (32, 32), STEPS[0], 20_000),
        ("photographs", PHOTO, STEPS[1], 6_000),
    ):
        if given.small:
            name, batch_size, count = SMALL_MODEL, SMALL_BATCH, 200
        if not table.has_time(f"loader, {kind}"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), count=count, height=height, width=width)
            rate = loader_rate(
                Path(folder),
                model=name,
                batch_size=batch_size,
                resolution=side,
                device=given.device,
            )
        table.add(
            f"fine-tuning {name}, {kind}",
            "second epoch",
            **{"img/s": rate, "of the step's rate": rate / eager[name]},
        )


if __name__ == "__main__":
    main()
