"""Time scoring a split: ours against timm's own parts, on made-up images, in turns.

    python benchmarks/evaluation.py --model deit_tiny_patch16_224

timm's default is the forward pass of its validate.py: fp32; its best flags add autocast in bf16,
where the hardware computes in it. Ours is the program's own `predict`, with what it chooses here.
Images are in memory, decoded and resized, on every side.
"""

from functools import partial

import timm
import torch
from machine import Work, time_against_timm, wait_for

from deit_transfer.batch import Batch
from deit_transfer.data.pipeline.batch_transforms import normalize
from deit_transfer.engine.glibc_malloc import keep_freed_memory
from deit_transfer.engine.inference import predict_batches
from deit_transfer.engine.precision import choose_attention, resolve_device, resolve_precision
from deit_transfer.models.classifier import build_classifier, set_attention

NUM_CLASSES = 10
NUM_BATCHES = 2


def timm_scoring(
    *, name: str, batch_size: int, resolution: int, device_name: str, autocast: bool
) -> Work:
    """Prepare timm's forward passes with its default settings of evaluation."""
    device = resolve_device(device_name)
    precision = resolve_precision("auto" if autocast else "fp32", device)
    model = timm.create_model(name, num_classes=NUM_CLASSES, img_size=resolution).to(device).eval()
    pixels = torch.randint(256, (batch_size, 3, resolution, resolution), dtype=torch.uint8)
    mean = torch.full((1, 3, 1, 1), 127.0, device=device)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(NUM_BATCHES):
                with precision.autocast():
                    model((pixels.to(device).float() - mean) / mean).argmax(dim=-1)
        wait_for(device)

    return work


def our_scoring(*, name: str, batch_size: int, resolution: int, device_name: str) -> Work:
    """Prepare the program's own scoring."""
    device = resolve_device(device_name)
    precision = resolve_precision("auto", device)
    if device.type == "cpu":
        keep_freed_memory()
    classifier = build_classifier(name=name, num_classes=NUM_CLASSES, resolution=resolution)
    classifier.to(device)
    attention = choose_attention(precision)
    set_attention(classifier, attention)
    print(f"ours: {precision.name} ({precision.reason}), {attention} attention")
    shape = (batch_size, 3, resolution, resolution)
    indices = torch.arange(NUM_BATCHES * batch_size)
    batches = [
        Batch(
            images=torch.randint(256, shape, dtype=torch.uint8),
            labels=own % NUM_CLASSES,
            indices=own,
            repetitions=torch.zeros_like(own),
            epoch=0,
        )
        for own in indices.split(batch_size)
    ]

    def work() -> None:
        predict_batches(
            classifier,
            batches,
            device=device,
            precision=precision,
            normalize=partial(normalize, mean=classifier.mean, std=classifier.std),
        )
        wait_for(device)

    return work


def main() -> None:
    time_against_timm(
        "Scoring",
        about=__doc__.splitlines()[0],
        timm_side=timm_scoring,
        our_side=our_scoring,
        batch_size=128,
        rounds=5,
        batches=NUM_BATCHES,
    )


if __name__ == "__main__":
    main()
