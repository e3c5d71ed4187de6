"""Time what a teacher costs: plain training against training with a teacher, and with its cache.

    python benchmarks/distillation.py TREE --teacher runs/teacher --model deit_tiny_patch16_224

Each round trains three times, in turns: the distilled network on labels alone (its two tokens
both learn the true label), with the teacher asked at every step, and with the answers cached by
a first run. The figure is the speed of the training steps, as a run reports it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe_machine

LIMIT = 1.10


def images_per_second(arguments: list[str], out: Path) -> float:
    """Train and return the images a second of its last epoch, the first being warmer."""
    name = f"run-{len(list(out.iterdir()))}"
    command = [*arguments, "--out", str(out), "--name", name, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = (out / name / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--teacher", required=True, help="A run fitted by `teacher fit`")
    parser.add_argument("--model", default="deit_tiny_distilled_patch16_224")
    parser.add_argument("--resolution", default="224")
    parser.add_argument("--train-limit", default="1000")
    parser.add_argument("--epochs", default="2")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "runs"
        out.mkdir()
        base = [
            *(sys.executable, "-m", "deit_transfer", "scratch", given.dataset),
            *("--model", given.model, "--resolution", given.resolution),
            *("--train-limit", given.train_limit, "--epochs", given.epochs),
            *("--set", "schedule.progressive=[]"),
        ]
        taught = [*base, "--teacher", given.teacher]
        cached = [*taught, "--teacher-cache", f"{folder}/answers"]
        sides = {
            "labels alone": [*base, "--set", "model.two_class_tokens=true"],
            "teacher asked": taught,
            "teacher cached": cached,
        }
        images_per_second(cached, out)  # fills the cache
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(given.rounds):
            for name, arguments in sides.items():
                rates[name].append(images_per_second(arguments, out))
    print(describe_machine())
    print(f"{given.model}, {given.resolution} px, {given.train_limit} images")
    plain = rates["labels alone"]
    for name, own in rates.items():
        cost = statistics.median(base / one for base, one in zip(plain, own, strict=True))
        limit = f", limit {LIMIT:.2f}x" if name == "teacher cached" else ""
        print(f"{name:16} {statistics.median(own):7.1f} img/s, {cost:.2f}x the time{limit}")


if __name__ == "__main__":
    main()
