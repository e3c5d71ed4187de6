"""Loader processes: no death and no lack of room of theirs hangs a run or looks like a fault."""

import contextlib
import errno
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from deit_transfer.batch import Batch
from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline import workers
from deit_transfer.data.pipeline.loader import eval_batches, train_batches
from deit_transfer.data.pipeline.samplers import StepPlan
from deit_transfer.data.pipeline.transforms import eval_transform, train_transform
from deit_transfer.data.pipeline.workers import WorkerBatch, WorkerBatches
from deit_transfer.errors import Preempted, ResourceError

N = 24


def eval_loader(workers=0):
    pixels = np.random.default_rng(0).integers(0, 256, (N, 24, 24, 3), np.uint8)
    images = ImageSet.from_arrays(pixels, np.arange(N))
    view = eval_transform(resolution=16, crop_pct=1.0)
    return eval_batches(images, transform=view, batch_size=4, workers=workers)


def train_loader(workers=0):
    pixels = np.random.default_rng(0).integers(0, 256, (N, 24, 24, 3), np.uint8)
    plan = StepPlan(
        num_images=N,
        seed=0,
        batch_size=8,
        micro_batch_size=4,
        epochs=1,
        resolution_for_epoch=lambda _epoch: 16,
    )
    return train_batches(
        ImageSet.from_arrays(pixels, np.arange(N)),
        plan,
        workers=workers,
        transform_for=lambda side: train_transform(
            resolution=side,
            scale=(0.3, 1.0),
            hflip=0.5,
            policy="none",
            randaugment="",
            color_jitter=0.0,
            mean=(0.5, 0.5, 0.5),
        ),
    )


def content(batches):
    return [tuple(part.numpy().tobytes() for part in batch[:4]) for batch in batches]


class Slow:
    """Samples that take a while, so that batches are under way when a worker dies."""

    def __init__(self, seconds=0.002, side=64):
        self.seconds, self.side = seconds, side

    def __getitem__(self, key):
        time.sleep(self.seconds)
        images = torch.full((4, 3, self.side, self.side), key % 256, dtype=torch.uint8)
        numbers = torch.full((4,), key)
        return WorkerBatch(Batch(images, numbers, numbers, numbers, 0), [])


# What the death interrupts may be a finalizer, whose exceptions Python reports and drops.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_killed_at_any_moment_is_one_resource_error():
    """Torch raises in its signal handler, the connection breaks, or a half-written batch stays."""
    random = np.random.default_rng(0)
    for _ in range(20):
        deliveries = WorkerBatches(Slow(), range(10**6), workers=2, pin_memory=False)
        victim = deliveries._processes[int(random.integers(2))]
        timer = threading.Timer(random.uniform(0, 0.1), os.kill, (victim.pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(ResourceError, match="loader process was killed") as error:
            list(deliveries)
        assert "--resume" in error.value.hint
        assert error.value.exit_code == 6
        timer.join()
        del deliveries, error
    gc.collect()


@pytest.fixture
def child_handler():
    """The handler, over one of torch's that always finds a dead worker."""

    def find_dead(_number, _frame):
        raise RuntimeError("DataLoader worker is killed")

    handler = workers._ChildHandler(find_dead)
    before = signal.signal(signal.SIGCHLD, handler)
    yield handler
    signal.signal(signal.SIGCHLD, before)


def test_a_death_whose_exception_is_dropped_is_raised_again(child_handler):
    with workers._waiting():
        with contextlib.suppress(RuntimeError):  # as a finalizer does
            child_handler(signal.SIGCHLD, None)
        with pytest.raises(RuntimeError, match="killed"):
            time.sleep(30)


def test_a_worker_that_dies_between_two_batches_raises_only_in_the_wait():
    deliveries = WorkerBatches(Slow(), range(10**6), workers=1, pin_memory=False)
    next(deliveries)
    os.kill(deliveries._processes[0].pid, signal.SIGKILL)
    time.sleep(0.3)  # the signal arrives: a checkpoint may be under way, and must not be cut off
    with pytest.raises(ResourceError, match="SIGKILL"):
        list(deliveries)


@pytest.mark.parametrize(
    "fault", [RuntimeError("unable to allocate shared memory(shm)"), OSError("AF_UNIX path")]
)
def test_batches_that_shared_memory_refuses_go_through_pipes(monkeypatch, fault):
    """Without it the queue drops them with a traceback, and the main process waits for ever."""

    def refuse(_storage):
        raise fault

    expected = content(eval_loader())
    monkeypatch.setattr(torch.multiprocessing.reductions, "reduce_storage", refuse)
    monkeypatch.setitem(
        multiprocessing.reduction.ForkingPickler._extra_reducers, torch.UntypedStorage, refuse
    )
    loader = eval_loader(workers=2)
    assert content(loader) == expected
    (note,) = loader.notes
    assert str(fault) in note
    assert "/dev/shm" in note


class Unsendable:
    def __getitem__(self, _key):
        return WorkerBatch(None, [lambda: None])


def test_what_cannot_be_sent_at_all_ends_the_wait(capfd):
    with pytest.raises(ResourceError, match="ended with code 1"):
        next(WorkerBatches(Unsendable(), [0], workers=1, pin_memory=False))
    assert "pickle" in capfd.readouterr().err


def test_a_wait_without_end_looks_for_stop_signals():
    deliveries = WorkerBatches(Slow(600), [0], workers=1, pin_memory=False)

    def stop():
        raise Preempted("stopped")

    deliveries.while_waiting = stop
    started = time.monotonic()
    with pytest.raises(Preempted):
        next(deliveries)
    assert time.monotonic() - started < 30


def test_batches_hand_the_look_and_the_notes_on(monkeypatch):
    seen = []

    class Recorded(WorkerBatches):
        def __next__(self):
            seen.append(self.while_waiting)
            self.notes.append("a note")
            return super().__next__()

    monkeypatch.setattr("deit_transfer.data.pipeline.loader.WorkerBatches", Recorded)
    for loader in (train_loader(), eval_loader()):
        loader.while_waiting = print
        list(loader)
        assert seen.pop() is print
        assert "a note" in loader.notes


IN_NARROW_PLACE = """
import sys
import numpy as np, torch
from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline import workers
from deit_transfer.data.pipeline.loader import eval_batches
from deit_transfer.data.pipeline.transforms import eval_transform

pixels = np.arange(64, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 8, 8, 3), np.uint8)
images = ImageSet.from_arrays(pixels, np.arange(64))
view = eval_transform(resolution=224, crop_pct=1.0)
loader = eval_batches(images, transform=view, batch_size=8, workers=int(sys.argv[1]))
assert [int(batch.images[k, 0, 0, 0]) for batch in loader for k in range(8)] == list(range(64))
print(*loader.notes)
"""


def run_narrow(workers, *, before="", **environment):
    command = f'{before} exec "$0" -c "$1" {workers}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, IN_NARROW_PLACE],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_temporary_folder_longer_than_a_socket_address_is_no_obstacle(tmp_path):
    long = tmp_path / ("d" * 100)
    long.mkdir()
    assert "TMPDIR" in run_narrow(2, TMPDIR=str(long))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits")
def test_a_low_limit_of_open_files_starts_fewer_workers():
    assert "0 of 8 loader processes are started" in run_narrow(8, before="ulimit -n 32;")
    assert "of 8 loader processes are started" in run_narrow(8, before="ulimit -n 64;")
    assert run_narrow(8, before="ulimit -Sn 64;").strip() == ""  # the hard limit has room


def can_mount():
    tried = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"]
    return shutil.which("unshare") and subprocess.run(tried, capture_output=True).returncode == 0


@pytest.mark.parametrize("size", ["64k", "2m"])
def test_a_small_shared_memory_is_no_obstacle(size):
    if not can_mount():
        pytest.skip("no mount namespace can be made here")
    script = f"mount -t tmpfs -o size={size} none /dev/shm; exec bash -c"
    command = f'exec "{sys.executable}" -c "$0" 4'
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", f"{script} '{command}' \"$0\"", IN_NARROW_PLACE],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "/dev/shm" in done.stdout


def test_an_exhausted_process_does_not_blame_the_images(monkeypatch):
    def refuse(_self, _index):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ImageSet, "read", refuse)
    for loader in (train_loader(), eval_loader()):
        with pytest.raises(ResourceError, match="Too many open files"):
            list(loader)
