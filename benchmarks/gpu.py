"""Measure training on a GPU against what the GPU can do, and against timm, in one run.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --device cpu --small   # checks the script itself where there is none

Prints each row as soon as it is known: the matrix-product rate of the device, measured here; for
each model the training step of timm's parts and of this program, eager, compiled and captured, with
the share of the matrix-product rate and the peak memory; scoring; and fine-tuning on generated
images through the loader. A row that fails says why, and the rest goes on. When --minutes are over,
the rows that are left are named and not measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from machine import describe_machine, wait_for
from PIL import Image
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_step import NUM_CLASSES, made_up, our_step

from deit_transfer.engine.memory_stats import free_cached_memory, peak_memory, reset_peak_memory
from deit_transfer.engine.precision import Precision, resolve_device, resolve_precision
from deit_transfer.models.classifier import build_classifier
from deit_transfer.models.compile import compile_network

# goals in img/s of whole steps on one H200
GOALS = {
    "deit_tiny_patch16_224": 9600,
    "deit_small_patch16_224": 9000,
    "deit_base_patch16_224": 3500,
    "scoring": 35000,
}
BATCHES = {
    "deit_tiny_patch16_224": 64,
    "deit_small_patch16_224": 256,
    "deit_base_patch16_224": 128,
}
SCORING_BATCH = 512
TIMED_S = 2.0  # of each row on a GPU
LOADER_TIMEOUT_S = 75.0


class Table:
    """Measures rows while there is time, prints each at once, and keeps them for the JSON file."""

    def __init__(self, device: torch.device, *, minutes: float) -> None:
        self.device = device
        self.ends = time.monotonic() + 60 * minutes
        self.rows: list[dict[str, Any]] = []

    def add(self, what: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run one measurement, print what it gave or why it gave nothing, and return it."""
        started = time.monotonic()
        if started >= self.ends:
            row: dict[str, Any] = {"skipped": "the time is over"}
        else:
            try:
                row = measure()
            except Exception as error:  # one row must not cost the others
                row = {"failed": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
        free_cached_memory(self.device)
        row = {"what": what, **row, "took_s": round(time.monotonic() - started, 1)}
        self.rows.append(row)
        values = ", ".join(
            f"{name} {_shown(value)}" for name, value in row.items() if name != "what"
        )
        print(f"{what:52} {values}", flush=True)
        return row


def _shown(value: Any) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and value < 100
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )


def timed(work: Callable[[], None], device: torch.device, *, images: int) -> dict[str, Any]:
    """Return the median rate of a call, and the seconds of the first ones, which compile."""
    reset_peak_memory(device)
    # A CPU compiles nothing here and captures nothing, and has no queue to be kept full.
    on_cpu = device.type == "cpu"
    first, calls, timed_s = (1, 1, 0.0) if on_cpu else (5, 5, TIMED_S)
    started = time.perf_counter()
    for _ in range(first):
        work()
    wait_for(device)
    first_s, seconds = time.perf_counter() - started, []
    until = time.perf_counter() + timed_s
    while len(seconds) < 3 or time.perf_counter() < until:
        before = time.perf_counter()
        for _ in range(calls):
            work()
        wait_for(device)
        seconds.append((time.perf_counter() - before) / calls)
    return {
        "img/s": images / statistics.median(seconds),
        "lowest": images / max(seconds),
        "highest": images / min(seconds),
        "first calls (s)": first_s,
        "peak MiB": peak_memory(device) / 2**20,
    }


def matmul_rate(device: torch.device, precision: Precision, size: int) -> dict[str, Any]:
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
    return {"TFLOP/s": best / 1e12, "precision": precision.name}


def step_flops_per_image(name: str, resolution: int) -> float:
    """Return the floating-point operations of one image forward and backward, counted by torch."""
    classifier = build_classifier(name=name, num_classes=NUM_CLASSES, resolution=resolution)
    images, targets = made_up(2, resolution, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        loss = nn.functional.cross_entropy(classifier(images).class_logits, targets)
        loss.backward()
    return counter.get_total_flops() / len(images)


def timm_network(name: str, resolution: int, device: torch.device) -> nn.Module:
    """Build timm's network; ours where timm does not know the name, as of the smallest."""
    if timm.is_model(name):
        return timm.create_model(name, num_classes=NUM_CLASSES, img_size=resolution).to(device)
    made = build_classifier(name=name, num_classes=NUM_CLASSES, resolution=resolution)
    return made.backbone.to(device)


def timm_training(
    *, name: str, batch_size: int, resolution: int, device: torch.device, compiled: bool
) -> dict[str, Any]:
    """Time a step of timm's parts with autocast, in the order of its train.py."""
    precision = resolve_precision("auto", device)
    images, targets = made_up(batch_size, resolution, device)
    network = timm_network(name, resolution, device).train()
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-4, weight_decay=0.05)
    model, loss_of = torch.compile(network) if compiled else network, SoftTargetCrossEntropy()

    def step() -> None:
        optimizer.zero_grad()
        with precision.autocast():
            loss = loss_of(model(images), targets)
        loss.backward()
        optimizer.step()

    return timed(step, device, images=batch_size)


def our_training(
    *,
    name: str,
    batch_size: int,
    resolution: int,
    device: torch.device,
    compiled: bool = False,
    captured: bool = False,
) -> dict[str, Any]:
    """Time a step of the program's own loop, its numbers read as a run reads them."""
    step = our_step(
        name=name,
        batch_size=batch_size,
        resolution=resolution,
        device_name=str(device),
        compiled=compiled,
        captured=captured,
        waits=False,
    )
    return timed(step, device, images=batch_size)


@torch.no_grad()
def scoring(
    *, name: str, batch_size: int, resolution: int, device: torch.device, side: str
) -> dict[str, Any]:
    """Time a forward pass in evaluation mode: timm's network, ours, or ours compiled."""
    precision = resolve_precision("auto", device)
    images, _ = made_up(batch_size, resolution, device)
    model: nn.Module
    if side == "timm":
        model = timm_network(name, resolution, device)
    else:
        model = build_classifier(name=name, num_classes=NUM_CLASSES, resolution=resolution)
        model.to(device)
        if side == "ours, compiled":
            compile_network(model, device=device)
    model.eval()

    def forward() -> None:
        with precision.autocast(), torch.no_grad():
            model(images)

    return timed(forward, device, images=batch_size)


def write_images(folder: Path, *, count: int, size: tuple[int, int]) -> None:
    """Write generated JPEG files, a smooth pattern with noise, in NUM_CLASSES folders of train."""
    random = np.random.default_rng(0)
    height, width = size[1], size[0]
    for number in range(count):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = random.integers(-8, 9, (height, width, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        place = folder / "train" / f"class{number % NUM_CLASSES}" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place, quality=90)


def loader_rate(
    *, model: str, images: int, size: tuple[int, int], batch_size: int, flags: list[str]
) -> dict[str, Any]:
    """Return the rates of a real run's second epoch, and what it waited for images."""
    with tempfile.TemporaryDirectory() as held:
        tree = Path(held) / "tree"
        write_images(tree, count=images, size=size)
        command = [
            *(sys.executable, "-m", "deit_transfer", "scratch", str(tree), "--model", model),
            *("--epochs", "2", "--batch-size", str(batch_size)),
            *("--set", "schedule.progressive=[]", *flags),
            *("--out", f"{held}/runs", "--name", "run", "--json", "--quiet"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LOADER_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[0])
        last = json.loads(Path(f"{held}/runs/run/metrics.jsonl").read_text().splitlines()[-1])
    return {"img/s": last["images_per_second"], "waiting %": last["data_wait_percent"]}


def measure_model(table: Table, name: str, *, rate: float, small: bool) -> None:
    """Add the rows of one model's training step."""
    resolution, batch_size = (32, 8) if small else (224, BATCHES.get(name, 128))
    flops = step_flops_per_image(name, resolution)
    given = {
        "name": name,
        "batch_size": batch_size,
        "resolution": resolution,
        "device": table.device,
    }
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "timm's parts, autocast": partial(timm_training, **given, compiled=False),
        "ours, eager": partial(our_training, **given),
    }
    if table.device.type == "cuda":
        ways["ours, captured"] = partial(our_training, **given, captured=True)
    if not small:
        ways["ours, compiled"] = partial(our_training, **given, compiled=True)
    if table.device.type == "cuda":
        both = partial(our_training, **given, compiled=True, captured=True)
        ways["ours, compiled and captured"] = both
    if not small:
        ways["timm's parts, compiled"] = partial(timm_training, **given, compiled=True)
    for way, measure in ways.items():

        def with_share(measure: Callable[[], dict[str, Any]] = measure) -> dict[str, Any]:
            row = measure()
            return row | {"of matmul rate": row["img/s"] * flops / rate if rate else 0.0}

        table.add(f"{name}, {batch_size}: {way}", with_share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(BATCHES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=4.5, help="No row begins after this")
    parser.add_argument("--json", type=Path, help="Where to write all rows at the end")
    parser.add_argument("--small", action="store_true", help="Tiny sizes: checks the script only")
    given = parser.parse_args()
    device = resolve_device(given.device)
    precision = resolve_precision("fp32" if given.small else "auto", device)
    print(describe_machine(), flush=True)
    table = Table(device, minutes=given.minutes)
    size = 256 if given.small else 8192
    product = table.add(
        f"matrix product, {size} square", partial(matmul_rate, device, precision, size)
    )
    models = ["deit_micro"] if given.small else given.models.split(",")
    for name in models:
        measure_model(table, name, rate=product.get("TFLOP/s", 0.0) * 1e12, small=given.small)
    resolution, count = (32, 8) if given.small else (224, SCORING_BATCH)
    for side in ("timm", "ours") if given.small else ("timm", "ours", "ours, compiled"):
        work = partial(
            scoring,
            name=models[0],
            batch_size=count,
            resolution=resolution,
            device=device,
            side=side,
        )
        table.add(f"scoring, {models[0]}, {count}: {side}", work)
    flags = ["--device", given.device] + (["--resolution", "32"] if given.small else [])
    sources = {"small images, 32x32": ((32, 32), 8000), "photographs, 500x375": ((500, 375), 4000)}
    for (title, (pixels, images)), name in zip(sources.items(), (models * 2)[:2], strict=True):
        work = partial(
            loader_rate,
            model=name,
            images=60 if given.small else images,
            size=pixels,
            batch_size=8 if given.small else BATCHES.get(name, 64),
            flags=flags,
        )
        table.add(f"through the loader, {title}, {name}", work)
    if given.json:
        described = {"machine": describe_machine(), "goals": GOALS, "rows": table.rows}
        given.json.write_text(json.dumps(described, indent=1) + "\n")
        print(f"written: {given.json}")


if __name__ == "__main__":
    main()
