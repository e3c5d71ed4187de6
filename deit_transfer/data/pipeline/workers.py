"""DataLoader workers: start-up, signals, error transport.

It knows nothing of datasets or order: it is given keys, and samples that turn a key into a
delivery.
"""

import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deit_transfer.batch import Batch
from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.errors import DeitTransferError, ResourceError

# Open files that this process needs per worker (two pipes, and the batches on their way) and for
# all else. Guesses, on the safe side.
_FILES_PER_WORKER = 8
_FILES_RESERVED = 24

_POLL_S = 1.0  # how often a wait for a batch looks for dead workers and stop signals
_DEATH_IS_SEEN_S = 2.0  # a broken connection comes before the news that its worker has died


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

    `notes` lists what had to be done differently, in sentences for the user. `while_waiting`, where
    it is set, is called about once a second while a batch is awaited; it may raise to stop.

    Args:
        samples: Turns one key into one `WorkerBatch`; runs in the workers.
        keys: What to deliver; read ahead of what has been taken.
        workers: Processes; 0 works in this one. Fewer are started where the limit of open files
            leaves no room for more.
        pin_memory: Page-lock the batches for a CUDA device.

    Raises:
        ResourceError: A worker was killed from outside, mostly for want of memory, or cannot be
            reached any more.
    """

    def __init__(
        self, samples: Dataset[WorkerBatch], keys: Iterable[Any], *, workers: int, pin_memory: bool
    ) -> None:
        self.while_waiting: Callable[[], None] | None = None
        affordable = _affordable_workers(workers)
        self.notes = [] if affordable == workers else [_too_few_files(workers, affordable)]
        self._pin_memory = pin_memory and torch.cuda.is_available()
        before = set(multiprocessing.active_children())
        try:
            loader = _start(samples, keys, workers=affordable, pin_memory=pin_memory)
        except OSError as error:  # no processes, files or room in /dev/shm are left
            _kill(set(multiprocessing.active_children()) - before)
            reason = error.strerror or error
            self.notes = [
                f"loader processes cannot be started ({reason}; most often /dev/shm is full): this "
                "process loads the images"
            ]
            affordable = 0
            loader = _start(samples, keys, workers=0, pin_memory=pin_memory)
        self._processes = (
            list(set(multiprocessing.active_children()) - before) if affordable else []
        )
        _raise_only_while_waiting()
        self._workers = [loader]
        # Letting go of torch's iterator ends its processes. This does so at exit, too: they
        # ignore the signal by which Python would end them, and it would wait for ever.
        weakref.finalize(self, _end, self._workers, self._processes)

    def __iter__(self) -> Iterator[WorkerBatch]:
        return self

    def __next__(self) -> WorkerBatch:
        delivery = self._receive() if self._processes else next(self._workers[0])
        if isinstance(delivery, _Parcel):
            delivery = self._unpack(delivery)
        if delivery.error is not None:
            raise delivery.error
        return delivery

    def _receive(self) -> Any:
        """Wait for the next batch; see to it that the wait ends when a worker does."""
        while True:
            try:
                with _waiting():
                    self._raise_if_dead()
                    return next(self._workers[0])
            except (RuntimeError, OSError, EOFError) as error:
                if _is_timeout(error):
                    self._raise_if_dead()
                    self._raise_if_pinning_ended()
                    self._look_for_stop()
                elif str(error).startswith("Caught "):  # raised by the samples, within a worker
                    raise
                else:
                    lost = self._connection_error(error)
                    _kill(self._processes)  # those left may wait for a lock of the one that died
                    raise lost from error

    def _look_for_stop(self) -> None:
        if self.while_waiting is None:
            return
        try:
            self.while_waiting()
        except BaseException:
            _kill(self._processes)  # the one that is awaited may never listen
            raise

    def _unpack(self, parcel: "_Parcel") -> WorkerBatch:
        if parcel.reason and not self.notes:
            self.notes.append(
                f"shared memory cannot be used ({parcel.reason}): images pass through pipes, which "
                "is slower. More room in /dev/shm (docker run --shm-size=8g), a higher `ulimit -n` "
                "or a shorter TMPDIR avoids it"
            )
        if parcel.images is None:
            return WorkerBatch(None, parcel.bad, parcel.error)
        arrays = (parcel.images, parcel.labels, parcel.indices, parcel.repetitions)
        tensors = [a if isinstance(a, Tensor) else torch.from_numpy(a) for a in arrays]
        if self._pin_memory:
            tensors = [tensor.pin_memory() for tensor in tensors]
        images, labels, indices, repetitions = tensors
        batch = Batch(images, labels, indices, repetitions, parcel.epoch)
        return WorkerBatch(batch, parcel.bad, parcel.error)

    def _raise_if_dead(self) -> None:
        dead = [process for process in self._processes if process.exitcode not in (None, 0)]
        if dead:
            raise _lost_worker(f"pid {dead[0].pid}, {_ending(dead[0].exitcode or 0)}")

    def _raise_if_pinning_ended(self) -> None:
        thread = getattr(self._workers[0], "_pin_memory_thread", None)
        if thread is not None and not thread.is_alive():
            raise _lost_worker("the connection to it broke")

    def _connection_error(self, error: Exception) -> ResourceError:
        """Return what a failed reception means: nearly always that a worker has died."""
        deadline = time.monotonic() + _DEATH_IS_SEEN_S
        while time.monotonic() < deadline:
            try:
                self._raise_if_dead()
            except ResourceError as lost:
                return lost
            time.sleep(0.05)
        return _lost_worker(str(error).splitlines()[0] if str(error) else type(error).__name__)


def _lost_worker(reason: str) -> ResourceError:
    return ResourceError(
        f"a loader process was killed from outside or cannot be reached ({reason})",
        hint="Memory, shared memory (/dev/shm) or open files (ulimit -n) ran out: try fewer "
        "--workers, and go on with --resume",
    )


def _ending(exitcode: int) -> str:
    if exitcode > 0:
        return f"ended with code {exitcode}"
    try:
        return f"ended by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"ended by signal {-exitcode}"


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader timed out")


def _end(workers: list[Any], processes: Iterable[Any]) -> None:
    """Let torch end its workers, and end those that do not listen, as on a network disk."""
    workers.clear()
    _kill(process for process in processes if process.is_alive())


def _kill(processes: Iterable[Any]) -> None:
    for process in processes:
        process.kill()  # they ignore softer signals
        process.join()


# --- the death of a worker ------------------------------------------------------------------

_waits = 0  # of this process, nested


class _waiting:  # noqa: N801  a context manager
    """While inside, the death of a worker raises: a read from its pipe might never return."""

    def __enter__(self) -> None:
        global _waits
        _waits += 1

    def __exit__(self, *_error: object) -> None:
        global _waits
        _waits -= 1


def _raise_only_while_waiting() -> None:
    """Wrap torch's SIGCHLD handler, which would raise wherever the program happens to be."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    theirs = signal.getsignal(signal.SIGCHLD)
    if isinstance(theirs, _ChildHandler) or not callable(theirs):
        return
    signal.signal(signal.SIGCHLD, _ChildHandler(theirs))


class _ChildHandler:
    def __init__(self, theirs: Callable[[int, FrameType | None], Any]) -> None:
        self.theirs = theirs

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not _waits:
            return
        try:
            self.theirs(number, frame)
        except RuntimeError:
            # Python drops what is raised while it finalizes an object: the wait would go on.
            again = threading.Timer(_POLL_S, _signal_main_thread)
            again.daemon = True
            again.start()
            raise


def _signal_main_thread() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGCHLD)


# --- start ----------------------------------------------------------------------------------


def _affordable_workers(workers: int) -> int:
    """Return how many workers the limit of open files allows; raise the soft limit for it."""
    if workers == 0 or sys.platform != "linux":
        return workers
    import resource  # not everywhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    needed = used + _FILES_RESERVED + workers * _FILES_PER_WORKER
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return workers
    soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(0, min(workers, (soft - used - _FILES_RESERVED) // _FILES_PER_WORKER))


def _too_few_files(workers: int, affordable: int) -> str:
    return (
        f"{affordable} of {workers} loader processes are started: the limit of open files "
        "(ulimit -n) leaves no room for more"
    )


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
            collate_fn=_pack if workers else _as_it_is,
            timeout=_POLL_S if workers else 0,  # ends a look, not the wait
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
    # What cannot be sent is dropped by the queue with a traceback, and waited for without end.
    multiprocessing.queues.Queue._on_queue_feeder_error = _resend  # type: ignore[attr-defined]


# --- from process to process ----------------------------------------------------------------


class _Parcel(NamedTuple):
    """A `WorkerBatch` on its way: only the images take shared memory, and a file number each."""

    images: "Tensor | NDArray[np.uint8] | None"
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    repetitions: NDArray[np.int64]
    epoch: int
    bad: list[BadImage]
    error: DeitTransferError | None
    reason: str = ""  # why the images do not travel in shared memory


_no_shared_memory = ""  # why this worker does not use it any more


def _pack(delivery: Any) -> _Parcel:
    batch = delivery.batch
    if batch is None:
        none = np.zeros(0, np.int64)
        return _Parcel(None, none, none, none, 0, delivery.bad, delivery.error)
    parcel = _Parcel(
        images=batch.images,
        labels=batch.labels.numpy(),
        indices=batch.indices.numpy(),
        repetitions=batch.repetitions.numpy(),
        epoch=batch.epoch,
        bad=delivery.bad,
        error=delivery.error,
    )
    return _by_pipe(parcel, _no_shared_memory) if _no_shared_memory else parcel


def _by_pipe(parcel: _Parcel, reason: str) -> _Parcel:
    assert isinstance(parcel.images, Tensor)
    return parcel._replace(images=parcel.images.numpy(), reason=reason)


def _resend(queue: Any, error: Exception, sent: Any) -> None:
    """Send a batch through the pipe that could not be sent by shared memory."""
    global _no_shared_memory
    if isinstance(sent, tuple) and len(sent) == 2 and isinstance(sent[1], _Parcel):
        number, parcel = sent
        if isinstance(parcel.images, Tensor):
            _no_shared_memory = str(error).splitlines()[0] if str(error) else type(error).__name__
            queue.put((number, _by_pipe(parcel, _no_shared_memory)))
            return
    if isinstance(sent, bytes | bytearray | memoryview):
        return  # the main process has gone
    traceback.print_exception(error)
    os._exit(1)  # an end is noticed, a missing batch is not


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
