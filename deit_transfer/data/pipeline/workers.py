"""DataLoader workers: start-up, signals, error transport.

It knows nothing of datasets or order: it is given keys, and samples that turn a key into a
delivery.
"""

import signal
import sys
import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from deit_transfer.batch import Batch
from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.errors import DeitTransferError, ResourceError


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read and, in training, the one that took its place."""

    index: int
    image_id: str
    reason: str
    epoch: int = 0
    replaced_by: int | None = None


class WorkerBatch(NamedTuple):
    """A batch and the unreadable images met in making it, or the error that prevented it.

    Errors for the user travel as values: torch would wrap what a worker raises in the text of a
    traceback and drop its hint.
    """

    batch: Batch | None
    bad: list[BadImage]
    error: DeitTransferError | None = None


class WorkerBatches:
    """Iterates over the batches for `keys`, in their order.

    Args:
        samples: Turns one key into one `WorkerBatch`; runs in the workers.
        keys: What to deliver; read ahead of what has been taken.
        workers: Processes; 0 works in this one.
        pin_memory: Page-lock the batches for a CUDA device.

    Raises:
        ResourceError: A worker was killed from outside, mostly for want of memory.
    """

    def __init__(
        self, samples: Dataset[WorkerBatch], keys: Iterable[Any], *, workers: int, pin_memory: bool
    ) -> None:
        self._workers = [_start(samples, keys, workers=workers, pin_memory=pin_memory)]
        # Letting go of torch's iterator ends its processes. This does so at exit, too: they
        # ignore the signal by which Python would end them, and it would wait for ever.
        weakref.finalize(self, self._workers.clear)

    def __iter__(self) -> Iterator[WorkerBatch]:
        return self

    def __next__(self) -> WorkerBatch:
        try:
            delivery = next(self._workers[0])
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise ResourceError(
                f"a loader process was killed from outside: {error}",
                hint="Memory or shared memory (/dev/shm) ran out: try fewer --workers",
            ) from error
        if delivery.error is not None:
            raise delivery.error
        return delivery


def _start(
    samples: Dataset[WorkerBatch], keys: Iterable[Any], *, workers: int, pin_memory: bool
) -> Iterator[WorkerBatch]:
    with warnings.catch_warnings():
        # Python 3.12 warns of every fork beside threads. Ours are safe: the workers start no
        # parallel work of OpenCV's or torch's, whose thread pools do not survive a fork.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        # More workers than cores is the user's choice.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            samples,
            batch_size=None,
            sampler=keys,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            worker_init_fn=_enter_worker,
            # A fork shares the decoded split and the imported libraries; elsewhere both are
            # made anew in each worker.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            # Else it would draw a number from torch's global generator.
            generator=torch.Generator().manual_seed(0),
        )
        return iter(loader)


def _as_it_is(delivery: Any) -> Any:
    return delivery


def _enter_worker(_number: int) -> None:
    # A signal to the whole process group asks the main process to finish its step and save,
    # for which it needs its workers.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class Stack:
    """Gathers images (R, R, 3) in one tensor (count, 3, R, R), each while it is in the cache."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.filled = 0
        self.images = torch.empty(0, dtype=torch.uint8)

    def add(self, view: Pixels) -> None:
        if self.filled == 0:
            height, width = view.shape[:2]
            self.images = torch.empty((self.count, 3, height, width), dtype=torch.uint8)
        planes = self.images[self.filled].numpy()  # (3, R, R)
        cv2.split(view, [planes[0], planes[1], planes[2]])  # a third of a transpose's time
        self.filled += 1
