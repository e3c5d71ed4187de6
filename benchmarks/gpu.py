"""Measure training on a GPU against what the GPU can do, and against timm, in one run.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --small   # checks the script itself where there is none

Prints, for each model: the matrix-product rate of the device, measured here; the training step of
timm with autocast and of this program, also compiled, in turns; the share of the matrix-product
rate that a step reaches; peak memory; the largest batch that fits. Then the rate of fine-tuning on
images that come through the loader, against the same steps on images that are there already.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial

import torch
from machine import describe_machine, print_rates, time_in_turns, wait_for
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_step import made_up, our_step, timm_step

from deit_transfer.engine.precision import Precision, resolve_device, resolve_precision
from deit_transfer.models.classifier import build_classifier

SHARE_LIMITS = {"ours": 0.50, "ours, compiled": 0.55}
TIMM_LIMIT, LOADER_LIMIT = 1.2, 0.95
NUM_CLASSES = 10


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


def fits(name: str, batch_size: int, resolution: int, device_name: str) -> bool:
    """Say whether a training step of this batch fits into the device's memory."""
    try:
        our_step(name=name, batch_size=batch_size, resolution=resolution, device_name=device_name)()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        return False
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def largest_batch(name: str, resolution: int, device_name: str, *, ceiling: int) -> int:
    """Return the largest power of two that fits, up to the ceiling; 0 where not even 1 does."""
    batch_size = 0
    candidate = 1
    while candidate <= ceiling and fits(name, candidate, resolution, device_name):
        batch_size, candidate = candidate, 2 * candidate
    return batch_size


def loader_rate(model: str, resolution: int, limit: int, dataset: str, device: str) -> float:
    """Return the images a second of a real run's second epoch."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            *(sys.executable, "-m", "deit_transfer", "scratch", dataset, "--model", model),
            *("--resolution", str(resolution), "--train-limit", str(limit), "--epochs", "2"),
            *("--set", "schedule.progressive=[]", "--device", device),
            *("--out", out, "--name", "run", "--json", "--quiet"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(f"{out}/run/metrics.jsonl") as lines:
            return json.loads(lines.readlines()[-1])["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="deit_small_patch16_224,deit_base_patch16_224")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--dataset", help="Images for the loader's rate, such as cifar10")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="Tiny sizes: checks the script only")
    given = parser.parse_args()
    device = resolve_device(given.device)
    precision = resolve_precision("auto", device)
    models = ["deit_micro"] if given.small else given.models.split(",")
    resolution = 32 if given.small else 224
    batch_size = 8 if given.small else given.batch_size
    rate = matmul_flops_per_second(device, precision, 256 if given.small else 8192)
    print(describe_machine())
    print(f"{precision.name}: {rate / 1e12:.2f} TFLOP/s in square matrix products")
    for name in models:
        shared = {
            "name": name,
            "batch_size": batch_size,
            "resolution": resolution,
            "device_name": given.device,
        }
        sides = {
            "ours": partial(our_step, **shared),
            "ours, compiled": partial(our_step, **shared, compiled=True),
        }
        if not given.small:  # timm does not know our smallest network
            sides["timm, autocast"] = partial(timm_step, **shared, autocast=True)
        seconds = time_in_turns(sides, rounds=3 if given.small else 20)
        print_rates(f"Training step: {name}", seconds, images=batch_size, ours="ours")
        images_per_second = batch_size / statistics.median(seconds["ours"])
        flops = batch_size * step_flops_per_image(name, resolution)
        for side, limit in SHARE_LIMITS.items():
            share = flops / statistics.median(seconds[side]) / rate
            print(f"{side}: {share:.2f} of the matrix-product rate, limit {limit:.2f}")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            our_step(**shared)()
            print(f"peak memory {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB")
        ceiling = 16 if given.small else 8192
        print(f"largest batch {largest_batch(name, resolution, given.device, ceiling=ceiling)}")
        if given.dataset or given.small:
            dataset, limit = (given.dataset, 20_000) if given.dataset else ("digits", 200)
            loaded = loader_rate(name, resolution, limit, dataset, given.device)
            print(
                f"through the loader {loaded:.1f} img/s, {loaded / images_per_second:.2f} of the "
                f"rate on made-up images, limit {LOADER_LIMIT:.2f}"
            )
    print(f"limits: ours is {TIMM_LIMIT}x timm or more")


if __name__ == "__main__":
    main()
