"""Show that bf16 trains like fp32: the loss over the same steps, beside the spread of seeds.

    python benchmarks/precision.py TREE WEIGHTS

Every seed trains twice, on the same images in the same order and views, once in each format; only
the arithmetic of the forward passes differs. Shown are means of the loss over windows of steps, and
the accuracy on the test images at the end. Where the hardware only emulates bf16 this takes longer
and shows the same.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from machine import describe_machine

from deit_transfer.engine.loop import StepReport
from deit_transfer.training.callbacks import NoCallbacks
from deit_transfer.training.choose_recipe import choose_recipe
from deit_transfer.training.train import train

FORMATS = ("fp32", "bf16")


class Losses(NoCallbacks):
    """Listen to a run for the loss of each step."""

    def __init__(self) -> None:
        self.of_step: list[float] = []

    def step(self, report: StepReport, total_steps: int) -> None:
        self.of_step.append(report.loss)


def train_once(given: argparse.Namespace, precision: str, seed: int) -> tuple[list[float], float]:
    """Return the loss of every step, and top-1 on test at the end."""
    overrides: dict[str, Any] = {
        "model.name": given.model,
        "model.resolution": given.resolution,
        "data.train_limit": given.limit,
        "data.val_fraction": 0.0,
        "data.select": "last",
        "schedule.batch_size": given.batch_size,
        "schedule.min_steps": given.steps,
        "schedule.max_steps": given.steps,
        "run.precision": precision,
        "run.seed": seed,
    }
    recipe = choose_recipe("finetune", given.tree, start=given.weights, overrides=overrides)
    heard = Losses()
    with tempfile.TemporaryDirectory() as out:
        result = train(recipe, out=Path(out), callbacks=heard)
    return heard.of_step, result["top1"]


def windows(losses: list[float], width: int) -> list[float]:
    """Return the mean loss of each window of steps."""
    return [statistics.fmean(losses[at : at + width]) for at in range(0, len(losses), width)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", help="CIFAR-10 or other images in folders")
    parser.add_argument("weights", help="File with the ImageNet weights of the model")
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--resolution", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--window", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print(describe_machine())
    print(
        f"{given.model}, {given.resolution} px, batch {given.batch_size}, {given.steps} steps, "
        f"{given.seeds} seeds, {given.limit:,} training images"
    )
    curves: dict[str, list[list[float]]] = {name: [] for name in FORMATS}
    top1: dict[str, list[float]] = {name: [] for name in FORMATS}
    for seed in range(given.seeds):
        for name in FORMATS:
            losses, final = train_once(given, name, seed)
            curves[name].append(windows(losses, given.window))
            top1[name].append(final)
    print(f"{'steps':>9} {'fp32':>8} {'bf16':>8} {'largest difference':>19} {'range of seeds':>15}")
    for place, fp32 in enumerate(zip(*curves["fp32"], strict=True)):
        bf16 = [curve[place] for curve in curves["bf16"]]
        apart = max(abs(one - other) for one, other in zip(fp32, bf16, strict=True))
        first = place * given.window
        print(
            f"{f'{first + 1}-{min(first + given.window, given.steps)}':>9} "
            f"{statistics.fmean(fp32):8.4f} {statistics.fmean(bf16):8.4f} {apart:19.4f} "
            f"{max(fp32) - min(fp32):15.4f}"
        )
    for name in FORMATS:
        print(f"top-1 in {name}: {', '.join(f'{one:.2f}' for one in top1[name])}")


if __name__ == "__main__":
    main()
