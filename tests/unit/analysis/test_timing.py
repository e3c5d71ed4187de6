"""Speed: the batch that is timed, what the times say, and what a network costs."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_runs import write_run

from deit_transfer.analysis.timing import (
    BatchTooLargeError,
    fastest_batch,
    largest_batch,
    throughput,
)
from deit_transfer.errors import DataError, ResourceError, UsageError
from deit_transfer.evaluation.throughput import choose_batch, count_gflops, measure_throughput
from deit_transfer.models.classifier import build_classifier

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
)


def machine(holds: int, error: BaseException | None = None) -> tuple[Callable, list[int]]:
    """Return what runs a batch on a machine that holds so many images, and what was tried."""
    tried: list[int] = []

    def run_batch(size: int) -> float:
        tried.append(size)
        if size > holds:
            raise error or BatchTooLargeError
        return 0.5 + size / 100

    return run_batch, tried


@pytest.mark.parametrize("holds", [0, 1, 2, 3, 7, 8, 9, 100, 255, 256, 257, 1000, 5000])
@pytest.mark.parametrize("most", [1, 8, 100, 4096])
def test_the_largest_batch_fits_and_little_more_would(holds: int, most: int) -> None:
    run_batch, tried = machine(holds)
    found = largest_batch(run_batch, most=most)
    best = min(holds, most)
    assert found <= best
    assert best - found <= best / 8
    assert max(tried) <= most
    assert len(tried) <= 2 * math.log2(most) + 4


def test_the_fastest_batch_is_taken_among_those_that_memory_holds() -> None:
    seconds = {1: 1.0, 2: 1.5, 4: 2.0, 8: 4.8, 16: 0.1}
    assert fastest_batch(seconds.__getitem__, (1, 2, 4, 8), fits=lambda size: True) == 4
    assert fastest_batch(seconds.__getitem__, (1, 2, 4, 8, 16), fits=lambda size: True) == 16
    assert fastest_batch(seconds.__getitem__, (1, 2, 4, 8, 16), fits=lambda size: size < 4) == 2
    assert fastest_batch(machine(2)[0], (1, 2, 4, 8), fits=lambda size: True) == 2


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_exhausted_memory_never_leaves_the_search(error: BaseException) -> None:
    run_batch, tried = machine(37, error)
    size, how = choose_batch(run_batch, device=CUDA, name="a network")
    assert 33 <= size <= 37
    assert how == "the largest that fits"
    assert max(tried) == 64
    size, _ = choose_batch(machine(5, error)[0], device=CPU, name="a network")
    assert size == 4


@pytest.mark.parametrize("device", [CUDA, CPU])
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_a_network_that_no_memory_holds_is_refused_with_a_way_out(
    error: BaseException, device: torch.device
) -> None:
    with pytest.raises(ResourceError, match="not even with one image") as caught:
        choose_batch(machine(0, error)[0], device=device, name="a network")
    assert caught.value.exit_code == 6
    assert "--resolution" in caught.value.hint


@pytest.mark.parametrize("device", [CUDA, CPU])
def test_another_error_is_not_taken_for_exhausted_memory(device: torch.device) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        choose_batch(machine(2, RuntimeError("shapes differ"))[0], device=device, name="x")


def test_a_speed_is_the_batch_over_the_mean_time() -> None:
    seconds = [0.5, 1.0, 2.0]
    found = throughput(seconds, batch_size=8)
    assert found.mean == pytest.approx(8 / (3.5 / 3))
    assert found.sd == pytest.approx(statistics.stdev([16, 8, 4]))
    assert (found.slowest, found.fastest, found.repeats) == (4, 16, 3)
    assert throughput([2.0], batch_size=8).sd == 0
    with pytest.raises(ValueError, match="at least one"):
        throughput([], batch_size=8)


def test_multiply_adds_are_those_of_the_layers_added_by_hand() -> None:
    tokens, width, depth, classes = 65, 96, 4, 10
    patches = 64 * (3 * 4 * 4) * width
    products = 2 * tokens * tokens * width  # queries by keys, and weights by values
    block = tokens * width * (3 * width + width + 2 * 4 * width) + products
    by_hand = patches + depth * block + width * classes
    classifier = build_classifier(name="deit_micro", num_classes=classes)
    assert count_gflops(classifier, resolution=32) * 1e9 == pytest.approx(by_hand)
    assert all(block.attn.fused_attn for block in classifier.backbone.blocks)


def test_networks_are_timed_in_the_order_given() -> None:
    facts = measure_throughput(
        ["deit_micro", "deit_micro_distilled"],
        device_name="cpu",
        precision_name="fp32",
        batch_size=2,
        resolution=16,
        repeats=3,
    )
    assert [one["model"] for one in facts["models"]] == ["deit_micro", "deit_micro_distilled"]
    plain, distilled = facts["models"]
    network = build_classifier(name="deit_micro", num_classes=10, resolution=16)
    assert plain["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert distilled["params"] > plain["params"]
    assert plain["images_per_second"] > 0
    low, high = plain["images_per_second_range"]
    assert low <= plain["images_per_second"] <= high
    expected = {"batch_size": 2, "precision": "fp32", "resolution": 16, "repeats": 3}
    assert expected.items() <= plain.items()
    assert plain["peak_memory_mb"] > 1
    assert plain["paper_name"] is None
    assert facts["figure"] is None


def test_the_papers_speed_stands_beside_the_papers_network_and_size_alone() -> None:
    def beside(**settings: int) -> tuple:
        facts = measure_throughput(
            ["deit_tiny_patch16_224"], device_name="cpu", batch_size=1, repeats=1, **settings
        )
        return facts["models"][0]["paper_name"], facts["models"][0]["paper_images_per_second"]

    assert beside() == ("DeiT-Ti", 2536.5)
    assert beside(resolution=32) == (None, None)


def test_accuracies_come_from_runs_of_this_network_and_size(tmp_path: Path) -> None:
    micro = {"data.dataset": "photos", "model.name": "deit_micro"}
    for name, pixels in (("right", 16), ("larger", 32)):
        settings = micro | {"model.resolution": pixels}
        write_run(tmp_path / "runs" / name, "scratch/folder", settings=settings, top1=pixels)
    facts = measure_throughput(
        ["deit_micro"],
        device_name="cpu",
        batch_size=1,
        resolution=16,
        repeats=1,
        against=tmp_path / "runs",
        figure=tmp_path / "figure.png",
    )
    assert [one["top1"] for one in facts["models"][0]["accuracies"]] == [16]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert facts["figure"] == str(tmp_path / "figure.png")


def test_what_cannot_be_timed_is_said_before_anything_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no_such_network"):
        measure_throughput(["deit_micro", "no_such_network"])
    with pytest.raises(DataError, match="no folder"):
        measure_throughput(["deit_micro"], against=tmp_path / "none")
