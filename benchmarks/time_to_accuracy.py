"""Time how soon each setting classifies an unseen image right often enough.

    python benchmarks/time_to_accuracy.py TREE WEIGHTS --timm-repo pytorch-image-models

TREE is CIFAR-10 in folders (train/CLASS, test/CLASS), WEIGHTS a file with the ImageNet weights of
the model. Every setting trains on the same number of images and is scored on all test images after
each epoch. Seconds are those of the training steps, loading included and scoring left out, up to
the end of the first epoch that reaches the goal. timm's train.py gets our recipe's optimizer, rate,
layer decay and augmentation, at two resolutions and several lengths, and bf16 where the hardware
computes in it.
"""

import argparse
import csv
import json
import re
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from machine import describe_machine

from deit_transfer.engine.precision import resolve_device, resolve_precision

MODEL = "deit_tiny_patch16_224"
BATCH_SIZE = 64

# Ours: name, then what is typed after `finetune TREE --from WEIGHTS`
OURS = {
    "96 px, 2 epochs": ["--resolution", "96", "--epochs", "2"],
    "112 px, 2 epochs": ["--resolution", "112", "--epochs", "2"],
    "112 px, 2 epochs, batch 32": [
        *("--resolution", "112", "--epochs", "2", "--batch-size", "32"),
        *("--set", "optim.peak_lr=16e-3"),  # the rate of batch 64: steps twice as many, as large
    ],
    "112 px, 260 steps, batch 32": [
        *("--resolution", "112", "--epochs", "2", "--batch-size", "32"),
        *("--set", "schedule.max_steps=260", "--set", "schedule.warmup_epochs=0.1"),
        *("--set", "optim.peak_lr=20e-3"),  # 1.25e-3 after scaling, chosen on other images
    ],
    "112 px, 3 epochs": ["--resolution", "112", "--epochs", "3"],
    "128 px, 2 epochs": ["--resolution", "128", "--epochs", "2"],
    "112 then 224 px, 3 epochs": ["--epochs", "3", "--set", "schedule.progressive=[[112, 0.67]]"],
    "224 px, 1 epoch": ["--epochs", "1"],
    "224 px, 2 epochs": ["--epochs", "2"],
    "224 px, 3 epochs (the recipe)": ["--epochs", "3"],
}

# timm's: the same optimizer, rate, decay and augmentation as our recipe, at the same resolutions
TIMM = {
    "timm train.py, 112 px, 2 epochs": [
        *("--img-size", "112", "--model-kwargs", "img_size=112", "--epochs", "2")
    ],
    "timm train.py, 112 px, 2 epochs, batch 32": [
        *("--img-size", "112", "--model-kwargs", "img_size=112", "--epochs", "2", "-b", "32")
    ],
    "timm train.py, 224 px, 1 epoch": ["--epochs", "1"],
    "timm train.py, 224 px, 2 epochs": ["--epochs", "2"],
    "timm train.py, 224 px, 3 epochs": ["--epochs", "3"],
}
TIMM_SHARED = [
    *("--model", MODEL, "--num-classes", "10", "-b", str(BATCH_SIZE), "-j", "2"),
    *("--opt", "adamw", "--lr", "1e-3", "--weight-decay", "0.05", "--layer-decay", "0.75"),
    *("--clip-grad", "1.0", "--sched", "cosine", "--sched-on-updates", "--warmup-epochs", "0"),
    *("--scale", "0.8", "1.0", "--smoothing", "0.1", "--log-interval", "20"),
]
TIMM_RATE = re.compile(r"Train: (\d+) \[.*?\((\d+\.\d+)s, +(\d+\.\d+)/s\)")


class Epoch(NamedTuple):
    """Hold where a run stood after an epoch: seconds of training so far, top-1 on test."""

    seconds: float
    top1: float


def train_ours(
    arguments: list[str], tree: Path, weights: Path, limit: int, seed: int
) -> list[Epoch]:
    """Run the program, and read its records."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            *(sys.executable, "-m", "deit_transfer", "finetune", str(tree)),
            *("--from", str(weights), "--model", MODEL, "--train-limit", str(limit)),
            *("--batch-size", str(BATCH_SIZE), "--seed", str(seed), "--out", out, "--name", "run"),
            # all labeled images train, as timm's do; test is scored each epoch to draw the curve
            *("--set", "data.val_fraction=0", "--set", "data.select=test"),
            *("--json", "--quiet", *arguments),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(out) / "run" / "metrics.jsonl").read_text().splitlines()
    epochs, seconds, seen = [], 0.0, 0
    for record in map(json.loads, lines):
        seconds += (record["images_seen"] - seen) / record["images_per_second"]
        seen = record["images_seen"]
        epochs.append(Epoch(seconds, max(record["val_top1"], record.get("ema_top1", 0.0))))
    return epochs


def train_timm(
    arguments: list[str], tree: Path, weights: Path, limit: int, seed: int, *, repo: Path
) -> list[Epoch]:
    """Run timm's train.py on as many images of each class, and read its log."""
    with tempfile.TemporaryDirectory() as place:
        link_subset(tree, Path(place) / "data", limit)
        precision = resolve_precision("auto", resolve_device("auto"))
        amp = ["--amp", "--amp-dtype", "bfloat16"] if precision.name == "bf16" else []
        command = [
            *(sys.executable, str(repo / "train.py"), "--data-dir", f"{place}/data"),
            *("--train-split", "train", "--val-split", "test"),
            *("--pretrained", "--pretrained-path", str(weights), "--output", f"{place}/out"),
            *("--experiment", "run", "--device", "cuda" if torch.cuda.is_available() else "cpu"),
            *(*TIMM_SHARED, *amp, "--seed", str(seed), *arguments),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        with (Path(place) / "out" / "run" / "summary.csv").open() as stream:
            top1 = [float(row["eval_top1"]) for row in csv.DictReader(stream)]
    rates = {
        int(epoch): float(rate) for epoch, _, rate in TIMM_RATE.findall(done.stderr + done.stdout)
    }
    images = limit // BATCH_SIZE * BATCH_SIZE  # its training loader drops the last batch
    epochs, seconds = [], 0.0
    for number, one in enumerate(top1):
        seconds += images / rates[number]
        epochs.append(Epoch(seconds, one))
    return epochs


def link_subset(tree: Path, data: Path, limit: int) -> None:
    """Link the test images, and as many training images of each class, into a folder."""
    data.mkdir()
    (data / "test").symlink_to((tree / "test").resolve())
    classes = sorted(path for path in (tree / "train").iterdir() if path.is_dir())
    for folder in classes:
        own = data / "train" / folder.name
        own.mkdir(parents=True)
        for path in sorted(folder.iterdir())[: limit // len(classes)]:
            (own / path.name).symlink_to(path.resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--timm-repo", type=Path, help="A checkout of timm, for its train.py")
    parser.add_argument("--only", action="append", help="A setting's name; repeat for more")
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--goal", type=float, default=85.0)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    wanted = given.only or []
    if unknown := [name for name in wanted if name not in {**OURS, **TIMM}]:
        raise SystemExit(f"no setting {unknown[0]!r}: {', '.join([*OURS, *TIMM])}")
    print(describe_machine())
    print(f"{MODEL}, {given.limit:,} training images, goal {given.goal:g}% of the test images")
    print(f"{'setting':34} {'s to goal':>8} {'seeds':>6} {'all s':>8} {'top-1':>7} {'range':>12}")
    settings = [(name, arguments, train_ours) for name, arguments in OURS.items()]
    if given.timm_repo is not None:
        theirs = partial(train_timm, repo=given.timm_repo)
        settings += [(name, arguments, theirs) for name, arguments in TIMM.items()]
    for name, arguments, train in settings:
        if not wanted or name in wanted:
            runs = [
                train(arguments, given.tree, given.weights, given.limit, seed)
                for seed in range(given.seeds)
            ]
            show(name, runs, goal=given.goal)


def show(name: str, runs: list[list[Epoch]], *, goal: float) -> None:
    """Print one setting: means over its seeds, how many of them reached the goal, their range."""
    reached = [next((epoch.seconds for epoch in run if epoch.top1 >= goal), None) for run in runs]
    times = [seconds for seconds in reached if seconds is not None]
    to_goal = f"{statistics.fmean(times):.0f}" if times else "-"
    total = statistics.fmean(run[-1].seconds for run in runs)
    top1 = [run[-1].top1 for run in runs]
    print(
        f"{name:34} {to_goal:>8} {f'{len(times)} of {len(runs)}':>7} {total:8.0f} "
        f"{statistics.fmean(top1):7.2f} {f'{min(top1):.2f}-{max(top1):.2f}':>12}",
        flush=True,
    )


if __name__ == "__main__":
    main()
