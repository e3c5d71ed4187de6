"""Own what every benchmark shares: naming the machine, timing in turns, printing a ratio."""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy
import timm
import torch
import torchvision

from deit_transfer.engine.precision import resolve_device, resolve_precision

Work = Callable[[], None]


def describe_machine() -> str:
    """Return the processor or GPU, threads, and the versions that matter, in one line."""
    chip = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        chip = lines[0].split(":")[1].strip() if lines else chip
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{chip}, {os.cpu_count()} cores, {torch.get_num_threads()} threads\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, timm {timm.__version__}, "
        f"numpy {numpy.__version__}"
    )


def time_against_timm(
    title: str,
    *,
    about: str,
    timm_side: Callable[..., Work],
    our_side: Callable[..., Work],
    batch_size: int,
    rounds: int,
    batches: int = 1,
) -> None:
    """Read the command line, time timm by default, timm with autocast and ours, and print it.

    Args:
        title: What is timed.
        about: The first line of --help.
        timm_side: Prepares timm's work from name, batch_size, resolution, device_name, autocast.
        our_side: Prepares ours from the same, without autocast.
        batch_size: The default.
        rounds: The default.
        batches: In one round's work.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    given = parser.parse_args()
    shared = {
        "name": given.model,
        "batch_size": given.batch_size,
        "resolution": given.resolution,
        "device_name": given.device,
    }
    device = resolve_device(given.device)
    precision = resolve_precision("auto", device)
    sides = {"timm, default (fp32)": partial(timm_side, **shared, autocast=False)}
    if precision.name != "fp32":
        sides[f"timm, best flags ({precision.name})"] = partial(timm_side, **shared, autocast=True)
    sides["ours"] = partial(our_side, **shared)
    print_rates(
        f"{title}: {given.model}, {given.resolution} px, batch {given.batch_size}, {device}",
        time_in_turns(sides, rounds=given.rounds),
        images=batches * given.batch_size,
        ours="ours",
    )


def time_in_turns(
    sides: Mapping[str, Callable[[], Work]], *, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of every round of each side, after one round to warm up.

    Each side lives in a process of its own, so that a setting of one (threads, allocator) cannot
    help or harm another; while one works the others wait. They take turns, and each round begins
    with another of them: a machine that slows down does so for all alike.

    Args:
        sides: By name, a function at the top level of a module (or a partial of one) that
            prepares the work and returns it; the work must wait for its device at its end.
        rounds: Timed rounds.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, prepare in sides.items():
        pipes[name], other_end = context.Pipe()
        process = context.Process(target=_serve, args=(prepare, other_end), daemon=True)
        process.start()
        other_end.close()  # or its end would not be noticed here
        processes.append(process)
        _ask(pipes[name], name)  # until it is ready
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            pipes[name].send(True)
            seconds[name].append(_ask(pipes[name], name))
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    return seconds


def print_rates(title: str, seconds: Mapping[str, list[float]], *, images: int, ours: str) -> None:
    """Print each side's median rate with its spread, and how many times faster ours is."""
    print(f"\n{title}")
    print(describe_machine())
    print(f"{'':36} {'img/s':>8} {'min':>8} {'max':>8} {'ours is':>8}")
    for name, times in seconds.items():
        rates = sorted(images / one for one in times)
        # of the ratios within a round, which saw the same machine, the median
        pairs = zip(times, seconds[ours], strict=True)
        ratio = statistics.median(other / own for other, own in pairs)
        shown = "" if name == ours else f"{ratio:.2f}x"
        middle = statistics.median(rates)
        print(f"{name:36} {middle:8.1f} {rates[0]:8.1f} {rates[-1]:8.1f} {shown:>8}")


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def _serve(prepare: Callable[[], Work], pipe: Connection) -> None:
    work = prepare()
    work()
    pipe.send(0.0)
    while pipe.recv():
        started = time.perf_counter()
        work()
        pipe.send(time.perf_counter() - started)


def _ask(pipe: Connection, name: str) -> float:
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"{name} ended early; its error is above") from None
