"""Measure what is classified right: probe, fine-tuning and a plain loop, over datasets and labels.

    python benchmarks/quality.py FOLDER WEIGHTS --model deit_tiny_patch16_224 --out quality.jsonl

FOLDER has one dataset a folder (DATASET/train/CLASS, DATASET/test/CLASS), WEIGHTS a file with the
ImageNet weights of the model. Each cell is a dataset, a number of labeled images per class, a seed
(of the images that are labeled, and of the training) and an arm:

    probe      deit-transfer probe: logistic regression on frozen features
    finetune   deit-transfer finetune, without any other setting; --minutes is its time budget,
               --images cuts its length to so many images
    plain      the loop that people write: AdamW at 1e-4, one-cycle, flip, crop of 0.5 to 1, for as
               many images as `finetune` saw; all labeled images train, the last epoch counts
    NAME       with --variant NAME SETTING=VALUE ...: finetune with these settings

Every finished cell is a line of --out; the same command goes on where it was stopped. Scores are
top-1 on the whole test split, nothing is chosen on it.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
from machine import describe_machine
from torchvision import transforms
from torchvision.datasets import ImageFolder

from deit_transfer.data.splits import take_limit
from deit_transfer.evaluation.probe import probe
from deit_transfer.training.choose_recipe import choose_recipe
from deit_transfer.training.train import train

PLAIN_LR = 1e-4
PLAIN_BATCH_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--datasets", nargs="+", help="names of folders; default: all")
    parser.add_argument(
        "--labels", nargs="+", type=int, default=[5, 25, 100], help="per class; 0: all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=["probe", "finetune", "plain"])
    parser.add_argument("--variant", nargs="+", action="append", default=[], metavar="NAME")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--minutes", type=float, help="time budget of finetune and variants")
    parser.add_argument("--images", type=int, help="images that finetune and variants see")
    parser.add_argument("--out", type=Path, default=Path("quality.jsonl"))
    options = parser.parse_args()
    print(describe_machine())
    variants = {
        name: dict(pair.split("=", 1) for pair in pairs) for name, *pairs in options.variant
    }
    names = options.datasets or sorted(path.name for path in options.folder.iterdir())
    for seed in options.seeds:
        for name in names:
            for labels in options.labels:
                for arm in [*options.arms, *variants]:
                    measure(options, name, labels, seed, arm, variants.get(arm, {}))
    print_table(read_cells(options.out))


def measure(
    options: argparse.Namespace,
    name: str,
    labels: int,
    seed: int,
    arm: str,
    settings: dict[str, str],
) -> None:
    """Measure one cell and append it to --out, unless it is there or has not enough labels."""
    cell = {
        "dataset": name,
        "labels": labels,
        "seed": seed,
        "arm": arm,
        "resolution": options.resolution,
        "model": options.model,
        "minutes": options.minutes,
        "images": options.images,
    }
    cells = read_cells(options.out)
    if any(cell.items() <= done.items() for done in cells):
        return
    tree = options.folder / name
    classes = sorted(path.name for path in (tree / "train").iterdir())
    num_images = sum(1 for _ in (tree / "train").glob("*/*"))
    if labels * len(classes) > num_images:
        return
    limit = labels * len(classes) or num_images
    began = time.perf_counter()
    if arm == "plain":
        like = next(
            done["images_seen"]
            for done in cells
            if {**cell, "arm": "finetune"}.items() <= done.items()
        )
        scored = plain(options, tree, limit=limit, seed=seed, images_seen=like)
    elif arm == "probe":
        scored = probe(
            f"{options.model}={options.weights}",
            str(tree),
            resolution=options.resolution,
            overrides={"data.train_limit": limit, "data.split_seed": seed},
        )
    else:
        overrides = {
            "model.name": options.model,
            "model.resolution": options.resolution,
            "data.train_limit": limit,
            "data.split_seed": seed,
            "run.seed": seed,
            "run.time_budget_minutes": options.minutes,
        }
        if options.images is not None:
            steps = options.images // 64  # the recipe's batch
            overrides |= {"schedule.min_steps": steps, "schedule.max_steps": steps}
        for key, text in settings.items():
            try:
                overrides[key] = json.loads(text)
            except json.JSONDecodeError:
                overrides[key] = text
        recipe = choose_recipe(
            "finetune", str(tree), start=str(options.weights), overrides=overrides
        )
        with tempfile.TemporaryDirectory() as folder:
            scored = train(recipe, out=Path(folder))
    cell |= {
        "top1": scored["top1"],
        "images_seen": scored["images_seen"],
        "seconds": round(time.perf_counter() - began, 1),
    }
    for key in ("mean_per_class", "embedding", "C"):
        if key in scored:
            cell[key] = scored[key]
    with options.out.open("a") as file:
        file.write(json.dumps(cell) + "\n")
    print(f"{name:12} {labels:4} labels  seed {seed}  {arm:10} {cell['top1']:6.2f}", flush=True)


def plain(
    options: argparse.Namespace, tree: Path, *, limit: int, seed: int, images_seen: int
) -> dict[str, Any]:
    """Fine-tune as a script does that one writes in ten minutes; return its score on test."""
    torch.manual_seed(seed)
    side = options.resolution
    normalize = [
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    augment = [transforms.RandomResizedCrop(side, (0.5, 1.0)), transforms.RandomHorizontalFlip()]
    view = [transforms.Resize(side), transforms.CenterCrop(side)]
    labeled = ImageFolder(tree / "train", transforms.Compose([*augment, *normalize]))
    test = ImageFolder(tree / "test", transforms.Compose([*view, *normalize]))
    kept = take_limit(torch.tensor(labeled.targets).numpy(), limit=limit, seed=seed)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(labeled, kept.tolist()), PLAIN_BATCH_SIZE, shuffle=True
    )
    model = timm.create_model(
        options.model,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(options.weights)},
        num_classes=len(labeled.classes),
        img_size=side,
    )
    epochs = max(1, round(images_seen / limit))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PLAIN_LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PLAIN_LR, total_steps=epochs * len(loader)
    )
    for _ in range(epochs):
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in torch.utils.data.DataLoader(test, 128):
            right += int((model(images).argmax(1) == labels).sum())
    return {"top1": 100 * right / len(test), "images_seen": epochs * limit}


def read_cells(path: Path) -> list[dict[str, Any]]:
    """Return the cells that are measured."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def print_table(cells: list[dict[str, Any]]) -> None:
    """Print mean, standard deviation and seconds of each arm, a line per dataset and labels."""
    arms = list(dict.fromkeys(cell["arm"] for cell in cells))
    print("| dataset | labels a class | px |" + "".join(f" {arm} |" for arm in arms))
    print("|---|---:|---:|" + "---:|" * len(arms))
    rows = dict.fromkeys((c["dataset"], c["labels"], c["resolution"]) for c in cells)
    for row in sorted(rows):
        line = "| " + " | ".join(map(str, row)) + " |"
        for arm in arms:
            found = [
                c
                for c in cells
                if (c["dataset"], c["labels"], c["resolution"]) == row and c["arm"] == arm
            ]
            if not found:
                line += " |"
                continue
            scores = [c["top1"] for c in found]
            spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            seconds = statistics.mean(c["seconds"] for c in found)
            line += f" {statistics.mean(scores):.1f}{spread} ({len(scores)}; {seconds:.0f} s) |"
        print(line)


if __name__ == "__main__":
    main()
