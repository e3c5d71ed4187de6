"""Measure throughput as the paper does (section 5.3): batch size, repeats, memory.

A network named by model is built with random weights: its speed does not depend on them.
Shapes: B images a batch.
"""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deit_transfer.analysis.timing import (
    BatchTooLargeError,
    Throughput,
    fastest_batch,
    largest_batch,
    throughput,
)
from deit_transfer.engine.memory_stats import (
    free_cached_memory,
    free_memory,
    peak_memory,
    reset_peak_memory,
    synchronize,
)
from deit_transfer.engine.out_of_memory import is_out_of_memory
from deit_transfer.engine.precision import Precision, resolve_device, resolve_precision
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import DataError, ResourceError
from deit_transfer.evaluation.load_model import LoadedModel, open_model
from deit_transfer.models.classifier import (
    Classifier,
    build_classifier,
    describe_parameters,
    set_attention,
)
from deit_transfer.models.pretrained import HF_HUB, LOCAL_DIR
from deit_transfer.models.variants import find_variant
from deit_transfer.paper.evidence import accuracies
from deit_transfer.paper.values import NETWORKS, TABLES
from deit_transfer.report.plot_style import check_png
from deit_transfer.report.throughput import throughput_png
from deit_transfer.runs.environment import describe_environment

CONVENTION = (
    "gflops: multiply-adds of one image, a multiply and an add counted as one operation, as timm "
    "and the literature on DeiT count; operations counted singly are twice as many"
)
LARGEST_TRIED = 4096
CPU_BATCHES = (1, 2, 4, 8, 16, 32, 64)
CPU_MEMORY_SHARE = 0.5  # of what is free: other programs want to live
WARMUP_RUNS = 3
MEASURED_GROWTH_BATCHES = (1, 5)

Report = Callable[[int, int], None]


def measure_throughput(
    subjects: list[str],
    *,
    device_name: str = "auto",
    precision_name: Any = "auto",
    batch_size: int | None = None,
    resolution: int | None = None,
    repeats: int = 30,
    against: Path | None = None,
    figure: Path | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Time the forward pass of networks and return the result object.

    Args:
        subjects: Names of networks, or what `open_model` takes: runs' folders, `MODEL=WEIGHTS`.
        device_name: Where; see `resolve_device`.
        precision_name: How; see `resolve_precision`.
        batch_size: B; None finds the largest that fits a GPU, or the fastest on a processor.
        resolution: Pixels a side; None takes each network's own.
        repeats: Timed runs of each, at least 1.
        against: Folder of runs whose accuracies are put beside the speeds.
        figure: PNG to draw them into, where there are any.
        progress: Told of runs done and runs in all.

    Raises:
        UsageError: A name that no network has, or a size that does not fit it.
        DataError: A folder is no run, or there is none to take accuracies from.
        ResourceError: Not even one image, or not the batch asked for, fits into memory.
    """
    device = resolve_device(device_name)
    precision = resolve_precision(precision_name, device)
    for text in subjects:  # a name that is wrong must not show after minutes
        if not _has_weights(text):
            find_variant(text)
    if against is not None and not against.is_dir():
        raise DataError(
            f"there is no folder {against} to take accuracies from",
            hint="deit-transfer runs list FOLDER shows the runs below a folder",
        )
    if against is not None and figure is not None:
        check_png(figure)
    measured: list[dict[str, Any]] = []
    with StopSignals(hint="") as stop:

        def ran(done: int) -> None:
            stop.check()
            if progress is not None:
                progress(len(measured) * repeats + done, len(subjects) * repeats)

        for text in subjects:
            subject, classifier = _open(text, resolution, device)
            timed = _measure(
                classifier,
                device=device,
                precision=precision,
                batch_size=batch_size,
                repeats=repeats,
                ran=ran,
            )
            measured.append(_named(timed, text, subject, classifier, against))
            del classifier, subject
            gc.collect()
    environment = describe_environment()
    facts: dict[str, Any] = {
        "models": measured,
        "device": str(device),
        "hardware": environment["gpu"] if device.type == "cuda" else environment["processor"],
        "cores": environment["cores"],
        "threads": environment["threads"],
        "versions": {name: environment["packages"][name] for name in ("torch", "timm")},
        "warmup_runs": WARMUP_RUNS,
        "convention": CONVENTION,
        "against": None if against is None else str(against),
        "figure": None,
    }
    if figure is not None and any(one["accuracies"] for one in measured):
        throughput_png(figure, facts)
        facts["figure"] = str(figure)
    return facts


def choose_batch(
    run_batch: Callable[[int], float], *, device: torch.device, name: str
) -> tuple[int, str]:
    """Return the batch to be timed and how it was chosen.

    Args:
        run_batch: Runs a batch of so many images and returns its seconds; an error of exhausted
            memory means that it does not fit.
        device: Where it runs.
        name: Of the network, for the error.

    Raises:
        ResourceError: Not even one image fits.
    """

    def guarded(size: int) -> float:
        too_large: BatchTooLargeError
        try:
            return run_batch(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            too_large = BatchTooLargeError(str(error))
        # outside the handler: there the error still holds what was allocated
        free_cached_memory(device)
        raise too_large

    if device.type == "cpu":
        size = fastest_batch(guarded, CPU_BATCHES, fits=_memory_rule(guarded))
        how = "the fastest of a few that memory holds"
    else:
        size = largest_batch(guarded, most=LARGEST_TRIED)
        how = "the largest that fits" if size < LARGEST_TRIED else "the largest tried"
    if not size:
        raise ResourceError(
            f"{name} does not fit into the memory of {device}, not even with one image",
            hint="Choose a smaller --resolution or network, or --device cpu",
        )
    return size, how


def count_gflops(classifier: Classifier, *, resolution: int) -> float:
    """Return the multiply-adds of one image's forward pass, in units of 1e9."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(classifier.parameters()).device
    image = torch.zeros(1, 3, resolution, resolution, device=device)
    set_attention(classifier, "plain")  # the counter does not know every fused kernel
    try:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            classifier(image)
    finally:
        set_attention(classifier, "fused")
    # the counter counts a multiply and an add as two
    return counter.get_total_flops() / 2 / 1e9


def _has_weights(text: str) -> bool:
    """Return whether a text is more than a network's name."""
    return Path(text).exists() or "=" in text or text.startswith((LOCAL_DIR, HF_HUB))


def _open(
    text: str, resolution: int | None, device: torch.device
) -> tuple[LoadedModel | None, Classifier]:
    """Return a run's network, or one of this name with random weights, at the size asked for."""
    subject = open_model(text, device=device) if _has_weights(text) else None
    if subject is None:
        classes = find_variant(text).num_classes
        classifier = build_classifier(name=text, num_classes=classes, resolution=resolution)
    elif resolution in (None, subject.classifier.resolution):
        classifier = subject.classifier
    else:
        own = subject.classifier
        classifier = build_classifier(
            name=own.name, num_classes=own.num_classes, resolution=resolution
        )
    return subject, classifier.to(device).eval()


def _measure(
    classifier: Classifier,
    *,
    device: torch.device,
    precision: Precision,
    batch_size: int | None,
    repeats: int,
    ran: Callable[[int], None],
) -> dict[str, Any]:
    """Time one network; see `measure_throughput`."""

    def run_batch(size: int) -> float:
        ran(0)
        images = _images(size, classifier.resolution, device)  # (B, 3, H, W)
        _forward(classifier, images, precision, device)  # allocates, and chooses kernels
        return _forward(classifier, images, precision, device)

    gflops = count_gflops(classifier, resolution=classifier.resolution)
    how = "asked for"
    if batch_size is None:
        batch_size, how = choose_batch(run_batch, device=device, name=classifier.name)
    free_cached_memory(device)
    reset_peak_memory(device)
    try:
        speed = _timed_runs(classifier, batch_size, precision, device, repeats, ran)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"a batch of {batch_size} images of {classifier.name} does not fit into the memory of "
            f"{device}",
            hint="Leave --batch-size out, and one that fits is found",
        ) from error
    return {
        "model": classifier.name,
        "images_per_second": speed.mean,
        "images_per_second_sd": speed.sd,
        "images_per_second_range": [speed.slowest, speed.fastest],
        "repeats": speed.repeats,
        "batch_size": batch_size,
        "batch_chosen": how,
        "precision": precision.name,
        "resolution": classifier.resolution,
        "params": describe_parameters(classifier).total,
        "gflops": gflops,
        "peak_memory_mb": peak_memory(device) / 1e6,
        "peak_memory_of": "the whole process" if device.type != "cuda" else "tensors on the GPU",
        "device": str(device),
    }


def _timed_runs(
    classifier: Classifier,
    batch_size: int,
    precision: Precision,
    device: torch.device,
    repeats: int,
    ran: Callable[[int], None],
) -> Throughput:
    images = _images(batch_size, classifier.resolution, device)  # (B, 3, H, W)
    for _ in range(WARMUP_RUNS):
        _forward(classifier, images, precision, device)
    seconds = []
    for done in range(repeats):
        ran(done)
        seconds.append(_forward(classifier, images, precision, device))
    ran(repeats)
    return throughput(seconds, batch_size=batch_size)


def _named(
    facts: dict[str, Any],
    text: str,
    subject: LoadedModel | None,
    classifier: Classifier,
    against: Path | None,
) -> dict[str, Any]:
    """Add whose the network is, the paper's speed, and the accuracies that runs give it."""
    folder = None if subject is None or subject.folder is None else subject.folder.path
    paper = _paper_speed(classifier.name, classifier.resolution)
    found = (
        []
        if against is None
        else accuracies(
            against, run=folder, model=classifier.name, resolution=classifier.resolution
        )
    )
    return {
        **facts,
        "name": text if subject is None else subject.name,
        "run": None if folder is None else str(folder),
        "weights": "random" if folder is None else "the run's",
        "paper_name": paper[0] if paper else None,
        "paper_images_per_second": paper[1] if paper else None,
        "accuracies": found,
    }


def _paper_speed(model: str, resolution: int) -> tuple[str, float] | None:
    """Return the paper's row and its images a second for this network at this size."""
    table = TABLES["table5"]
    speeds, sizes = table.column("im/s"), table.column("size")
    for row, speed in speeds.items():
        network = NETWORKS[row]
        same = model in (network.model, network.weights) and sizes[row] == resolution
        if same and isinstance(speed, float | int):
            return row, float(speed)
    return None


def _images(size: int, resolution: int, device: torch.device) -> Tensor:
    """Return noise in place of normalized images (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, resolution, resolution, generator=generator).to(device)


def _forward(
    classifier: Classifier, images: Tensor, precision: Precision, device: torch.device
) -> float:
    """Return the seconds of one forward pass, waited for to its end."""
    synchronize(device)
    started = time.perf_counter()
    with torch.inference_mode(), precision.autocast():
        classifier(images)
    synchronize(device)
    return time.perf_counter() - started


def _memory_rule(run_batch: Callable[[int], float]) -> Callable[[int], bool]:
    """Return what says, from the growth that two batches showed, whether memory holds a batch."""
    grown: list[float] = []

    def fits(size: int) -> bool:
        if size <= MEASURED_GROWTH_BATCHES[0]:
            return True
        if not grown:
            grown.append(_growth_per_image(run_batch))
        return grown[0] * size < CPU_MEMORY_SHARE * free_memory()

    return fits


def _growth_per_image(run_batch: Callable[[int], float]) -> float:
    """Return the bytes by which the process's peak grows with each image of a batch."""
    peaks = []
    for size in MEASURED_GROWTH_BATCHES:
        reset_peak_memory(torch.device("cpu"))
        try:
            run_batch(size)
        except BatchTooLargeError:
            return float("inf")
        peaks.append(peak_memory(torch.device("cpu")))
    few, many = MEASURED_GROWTH_BATCHES
    return max(0.0, peaks[1] - peaks[0]) / (many - few)
