"""Check a world of one, and how a process learns its place; several processes: tests/training."""

import pytest
import torch
from torch import nn

from deit_transfer.engine import distributed
from deit_transfer.engine.distributed import (
    World,
    batch_norm_statistics,
    connected,
    sum_gradients,
    world_from_env,
)
from deit_transfer.errors import UsageError


def test_alone_everything_is_itself() -> None:
    world = World()
    tensor = torch.ones(3)
    assert world.is_main
    assert world.sum_(tensor) is tensor
    assert world.maximum(3) == 3
    assert world.any(True)
    assert not world.any(False)
    assert world.gather("a") == ["a"]
    assert world.broadcast("a") == "a"
    world.barrier()
    with connected(world, device=torch.device("cpu")) as joined:
        assert joined is world
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    sum_gradients(layer.parameters(), world)
    assert torch.equal(layer.weight.grad, before)


def test_place_is_read_from_torchrun() -> None:
    assert world_from_env({}) == World()
    given = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert world_from_env(given) == World(rank=5, size=8, local_rank=1)
    assert not world_from_env(given).is_main


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "'x'"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK is 2"),
    ],
)
def test_half_a_place_is_refused(given: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        world_from_env(given)


def test_buckets_hold_all_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET_ELEMENTS", 10)
    tensors = [torch.full((n,), float(n)) for n in (4, 6, 1, 30, 2)]
    tensors.append(torch.ones(2, dtype=torch.float64))
    buckets = list(distributed._buckets(tensors))
    assert [t for bucket in buckets for t in bucket] == tensors
    assert [[len(t) for t in bucket] for bucket in buckets] == [[4, 6], [1], [30], [2], [2]]


def test_running_statistics_are_found() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.LayerNorm(2))
    found = batch_norm_statistics(model)
    assert [id(t) for t in found] == [
        id(norm.running_mean),
        id(norm.running_var),
        id(norm.num_batches_tracked),
    ]
    assert batch_norm_statistics(nn.BatchNorm1d(3, track_running_stats=False)) == []
