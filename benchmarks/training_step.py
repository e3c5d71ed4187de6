"""Time one training step on made-up images: ours against timm's own parts, in turns.

    python benchmarks/training_step.py --model deit_tiny_patch16_224 --batch-size 64

timm's default is a step as its train.py makes it without flags: fp32. Its best flags add autocast
in bf16, where the hardware computes in it. Ours is the program's own loop with what the program
chooses for this device. All have the same network, AdamW, soft targets, no average of weights.
"""

import itertools
from collections.abc import Iterator

import timm
import torch
from machine import Work, time_against_timm, wait_for
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from deit_transfer.batch import Batch
from deit_transfer.data.pipeline.loader import LoadedStep
from deit_transfer.engine.captured_step import capture_cuda_graph
from deit_transfer.engine.glibc_malloc import keep_freed_memory
from deit_transfer.engine.loop import train_steps
from deit_transfer.engine.losses import make_objective
from deit_transfer.engine.optimizer import make_optimizer
from deit_transfer.engine.precision import choose_attention, resolve_device, resolve_precision
from deit_transfer.engine.state import TrainState
from deit_transfer.models.classifier import build_classifier, set_attention
from deit_transfer.models.compile import compile_network

NUM_CLASSES = 10


def made_up(batch_size: int, resolution: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, R, R) and targets (B, K)."""
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, resolution, resolution, device=device)
    labels = torch.randint(NUM_CLASSES, (batch_size,), device=device)
    return images, nn.functional.one_hot(labels, NUM_CLASSES).float()


def timm_step(
    *,
    name: str,
    batch_size: int,
    resolution: int,
    device_name: str,
    autocast: bool,
    compiled: bool = False,
) -> Work:
    """Prepare a step of timm's parts, in the order of its train.py."""
    device = resolve_device(device_name)
    precision = resolve_precision("auto" if autocast else "fp32", device)
    images, targets = made_up(batch_size, resolution, device)
    model = timm.create_model(name, num_classes=NUM_CLASSES, img_size=resolution).to(device)
    model.train()
    if compiled:
        model.compile()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05)
    loss_of = SoftTargetCrossEntropy()

    def step() -> None:
        optimizer.zero_grad()
        with precision.autocast():
            loss = loss_of(model(images), targets)
        loss.backward()
        optimizer.step()
        wait_for(device)

    return step


def our_step(
    *,
    name: str,
    batch_size: int,
    resolution: int,
    device_name: str,
    compiled: bool = False,
    captured: bool = False,
) -> Work:
    """Prepare a step of the program's own loop; on CUDA its numbers are read one step late."""
    device = resolve_device(device_name)
    precision = resolve_precision("auto", device)
    kept = keep_freed_memory()
    images, targets = made_up(batch_size, resolution, device)
    classifier = build_classifier(name=name, num_classes=NUM_CLASSES, resolution=resolution)
    classifier.to(device)
    attention = choose_attention(precision)
    set_attention(classifier, attention)
    if compiled:
        compile_network(classifier, device=device)
    print(f"ours: {precision.name} ({precision.reason}){', compiled' if compiled else ''}")
    print(f"ours: {attention} attention; freed memory is kept: {kept}")
    pixels = torch.zeros(batch_size, 3, 1, 1, dtype=torch.uint8)
    indices = torch.arange(batch_size)
    batch = Batch(
        images=pixels,
        labels=indices % NUM_CLASSES,
        indices=indices,
        repetitions=torch.zeros_like(indices),
        epoch=0,
    )

    def endless() -> Iterator[LoadedStep]:
        for step in itertools.count():
            yield LoadedStep(
                micro_batches=[batch], numbers=[0], global_batch_size=batch_size, epoch=0, step=step
            )

    state = TrainState(
        model=classifier,
        optimizer=make_optimizer(
            classifier.backbone, name="adamw", peak_lr=1e-4, weight_decay=0.05
        ),
        objective=make_objective(kind="none"),
        batch_transforms=lambda _batch: (images, targets),
        lr_at=lambda _step: 1e-4,
        precision=precision,
        device=device,
        seed=0,
        augment_seed=0,
        scaler=precision.make_scaler(),
        read_late=device.type == "cuda" and precision.name != "fp16",
        capture=capture_cuda_graph if captured else None,
    )
    reports = train_steps(state, endless())

    def step() -> None:
        next(reports)
        wait_for(device)

    return step


def main() -> None:
    time_against_timm(
        "Training step",
        about=__doc__.splitlines()[0],
        timm_side=timm_step,
        our_side=our_step,
        batch_size=64,
        rounds=7,
    )


if __name__ == "__main__":
    main()
