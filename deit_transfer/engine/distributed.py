"""Collectives for several processes of one run. With one process everything here is a no-op.

Gradients are summed, not averaged. Each process weighs its micro-batches by size / global batch, so
one plain sum after accumulation is the gradient of the whole batch for any number of processes and
for shares of different sizes; DistributedDataParallel would divide by the number of processes,
which is right for equal shares only, and would need no_sync around all but the last micro-batch.
The price is that the sum does not overlap with the backward pass: small at DeiT's sizes.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deit_transfer.errors import PeerLostError, UsageError

T = TypeVar("T")

# Few large sums are faster than many small ones; a bucket bounds the extra memory. A guess.
BUCKET_ELEMENTS = 16 * 2**20
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class World:
    """The rank of this process, the world size, and the collectives between them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, in place."""
        if self.size > 1:
            with _peers():
                dist.all_reduce(tensor)
        return tensor

    def maximum(self, value: int) -> int:
        """Return the largest of all processes' values."""
        if self.size == 1:
            return value
        held = torch.tensor(value)
        with _peers():
            dist.all_reduce(held, op=dist.ReduceOp.MAX)
        return int(held)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true in any process."""
        return bool(self.maximum(int(flag)))

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in the order of ranks, in every process."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        with _peers():
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process."""
        if self.size == 1:
            return value
        values = [value]
        with _peers():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.maximum(0)


def world_from_env(environ: Mapping[str, str] | None = None) -> World:
    """Read this process's place from torchrun's variables; without them it is alone.

    Raises:
        UsageError: Some of RANK, WORLD_SIZE and LOCAL_RANK are missing, or contradict each other.
    """
    environ = os.environ if environ is None else environ
    if "WORLD_SIZE" not in environ and "RANK" not in environ:
        return World()
    try:
        world = World(
            rank=int(environ["RANK"]),
            size=int(environ["WORLD_SIZE"]),
            local_rank=int(environ["LOCAL_RANK"]),
        )
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them: {error!r}",
            hint="Start several processes with torchrun or --nproc, or unset these variables",
        ) from error
    if not 0 <= world.rank < world.size:
        raise UsageError(f"RANK is {world.rank}, but WORLD_SIZE is {world.size}")
    return world


@contextmanager
def connected(
    world: World,
    *,
    device: torch.device,
    init_method: str = "env://",
    store: dist.Store | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[World]:
    """Join the processes of a run: gloo for tensors on the CPU, NCCL for those on GPUs.

    Args:
        world: From world_from_env; a world of one connects to nothing.
        device: Where the model runs; a GPU becomes the process's current one.
        init_method: How the processes find each other, as torch.distributed names it.
        store: The store through which they do instead.
        timeout_s: How long a process waits for the others before it gives up.
    """
    if world.size == 1:
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _peers():
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=init_method if store is None else None,
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout_s),
        )
    try:
        yield world
    finally:
        dist.destroy_process_group()


def sum_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Replace every gradient by its sum over all processes, bucket by bucket.

    Args:
        parameters: In the same order in every process; those without a gradient are passed over
            and must be the same ones everywhere.
        world: All of it must call.
    """
    if world.size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for bucket in _buckets(gradients):
        flat = world.sum_(torch.cat([gradient.reshape(-1) for gradient in bucket]))
        _spread(flat, bucket)


def average_batch_norm(model: nn.Module, world: World, *, weight: float) -> None:
    """Average the running statistics of batch norms over all processes.

    Each process normalizes its own share of a batch, so a network with batch norm (a convnet
    teacher, no DeiT) comes near the one-process result, not onto it.

    Args:
        model: Its running means and variances are replaced.
        world: All of it must call.
        weight: This process's part of the global batch; the weights sum to 1.
    """
    if world.size == 1:
        return
    statistics = [s for s in batch_norm_statistics(model) if s.is_floating_point()]
    for bucket in _buckets(statistics):
        flat = world.sum_(torch.cat([s.reshape(-1) for s in bucket]).mul_(weight))
        _spread(flat, bucket)


def batch_norm_statistics(model: nn.Module) -> list[Tensor]:
    """Return all buffers that a forward pass in training mode changes."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    return [
        buffer
        for module in model.modules()
        if "running_mean" in module._buffers
        for name in names
        if (buffer := module._buffers.get(name)) is not None
    ]


def copy_from_main(model: nn.Module, world: World) -> None:
    """Give every process the main process's weights and buffers."""
    if world.size == 1:
        return
    with _peers(), torch.no_grad():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and (held + tensor.numel() > BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel()
    if bucket:
        yield bucket


def _spread(flat: Tensor, bucket: list[Tensor]) -> None:
    for part, tensor in zip(flat.split([t.numel() for t in bucket]), bucket, strict=True):
        tensor.copy_(part.view_as(tensor))


@contextmanager
def _peers() -> Iterator[None]:
    """Turn a failed collective into one sentence: another process is gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLostError(
            f"another process of this run has ended or does not respond: {error}",
            hint="See the first error above, from the process that failed",
        ) from error
