"""Batches: the same bytes at any number of workers and after any resume, and bad images told."""

import gc
import inspect
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline.decode_cache import DecodedImages, DirectReader, open_reader
from deit_transfer.data.pipeline.loader import eval_batches, train_batches
from deit_transfer.data.pipeline.samplers import StepPlan
from deit_transfer.data.pipeline.transforms import eval_transform, sample_seed, train_transform
from deit_transfer.data.pipeline.workers import Stack, WorkerBatch, WorkerBatches
from deit_transfer.errors import DataError, ImageError, ResourceError

N = 22
BAD = (3, 17)


def noise(count, side=24):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def pixel_set(count=N):
    return ImageSet.from_arrays(noise(count), np.arange(count) % 5)


@pytest.fixture
def file_set(tmp_path):
    """PNG files of three sizes, two of which are no images."""
    paths = []
    for index in range(N):
        paths.append(f"image-{index:02d}.png")
        pixels = noise(1, 16 + index % 3)[0] // (1 + index % 7)
        Image.fromarray(pixels).save(tmp_path / paths[-1])
    (tmp_path / paths[BAD[0]]).write_bytes(b"")
    (tmp_path / paths[BAD[1]]).write_bytes(b"<html>not found</html>")
    return ImageSet.from_files(tmp_path, paths, np.arange(N) % 5)


def transform_for(resolution):
    return train_transform(
        resolution=resolution,
        scale=(0.3, 1.0),
        hflip=0.5,
        policy="randaugment",
        randaugment="rand-m9-mstd0.5-inc1",
        color_jitter=0.0,
        mean=(0.5, 0.5, 0.5),
    )


def batches_of(images, **changes):
    planned = {
        "seed": 1,
        "batch_size": 8,
        "micro_batch_size": 3,
        "epochs": 2,
        "resolution_for_epoch": lambda epoch: 16 + 8 * epoch,
    }
    loading = {"transform_for": transform_for}
    for name, value in changes.items():
        planned_for = name in inspect.signature(StepPlan).parameters
        (planned if planned_for else loading)[name] = value
    return train_batches(images, StepPlan(num_images=len(images), **planned), **loading)


def content(steps):
    """Everything delivered, as values that compare by equality."""
    return [
        (
            step.step,
            step.epoch,
            step.global_batch_size,
            step.numbers,
            [
                (
                    tuple(batch.images.shape),
                    batch.images.numpy().tobytes(),
                    batch.labels.tolist(),
                    batch.indices.tolist(),
                    batch.repetitions.tolist(),
                    batch.epoch,
                )
                for batch in step.micro_batches
            ],
        )
        for step in steps
    ]


# --- what a batch is ------------------------------------------------------------------------


def test_batches_hold_the_views_that_their_keys_name():
    images = pixel_set()
    for step in batches_of(images, repeats=2):
        resolution = 16 + 8 * step.epoch
        transform = transform_for(resolution)
        for batch in step.micro_batches:
            assert batch.images.dtype == torch.uint8
            assert batch.images.is_contiguous()
            assert batch.images.shape[1:] == (3, resolution, resolution)
            for image, label, index, repetition in zip(*batch[:4], strict=True):
                seed = sample_seed(1, step.epoch, int(index), int(repetition))
                expected = transform(noise(N)[index], seed)
                assert (image.numpy() == expected.transpose(2, 0, 1)).all()
                assert label == images.labels[index]


def test_steps_and_numbers_follow_the_plan():
    loader = batches_of(pixel_set())
    steps = list(loader)
    assert loader.steps_per_epoch == 3
    assert len(loader) == loader.total_steps == len(steps) == 6
    assert [step.numbers for step in steps] == [[0, 1, 2], [0, 1, 2], [0, 1]] * 2
    assert [step.global_batch_size for step in steps] == [8, 8, 6] * 2
    for epoch in range(2):
        seen = [i for s in steps if s.epoch == epoch for b in s.micro_batches for i in b.indices]
        assert sorted(map(int, seen)) == list(range(N))


def test_workers_change_nothing():
    expected = content(batches_of(pixel_set()))
    assert content(batches_of(pixel_set(), workers=2)) == expected
    assert content(batches_of(pixel_set())) == expected  # and a repeat repeats


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_gets_the_same_batches(workers):
    expected = content(batches_of(pixel_set()))
    for start in (1, 3, 5, 6):
        resumed = batches_of(pixel_set(), start_step=start, workers=workers)
        assert len(resumed) == 6 - start
        assert content(resumed) == expected[start:]


def test_a_second_iteration_starts_again():
    loader = batches_of(pixel_set(), start_step=2, workers=1)
    assert content(loader) == content(loader)


def test_workers_epochs_and_repetitions_differ():
    """albumentations on its own would give each worker and each epoch the same stream."""
    same = ImageSet.from_arrays(np.repeat(noise(1), N, axis=0), np.zeros(N, np.int64))
    loader = batches_of(same, workers=2, resolution_for_epoch=lambda epoch: 16, repeats=2)
    views = [
        image.numpy().tobytes()
        for step in loader
        for batch in step.micro_batches
        for image in batch.images
    ]
    # Micro-batches alternate between the two workers; every view of the one image is another.
    assert len(set(views)) == len(views) == 2 * N


def test_processes_share_the_batches_of_one():
    alone = list(batches_of(pixel_set()))
    ranks = [list(batches_of(pixel_set(), rank=rank, world_size=2)) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        joined = sorted(
            (number, batch.images.numpy().tobytes())
            for part in parts
            for number, batch in zip(part.numbers, part.micro_batches, strict=True)
        )
        assert joined == [
            (n, b.images.numpy().tobytes()) for n, b in enumerate(whole.micro_batches)
        ]


def test_global_generators_are_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(batches_of(pixel_set(), epochs=1))
    view = eval_transform(resolution=16, crop_pct=1.0)
    list(eval_batches(pixel_set(), transform=view, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_views_are_stacked_by_planes():
    stack = Stack(3)
    for view in noise(3):
        stack.add(view)
    assert stack.images.is_contiguous()
    assert (stack.images.numpy() == noise(3).transpose(0, 3, 1, 2)).all()


# --- bad images -----------------------------------------------------------------------------


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_bad_training_images_are_replaced_and_counted(file_set, cache_mb):
    loaders = [
        batches_of(file_set, workers=workers, decode_cache_mb=cache_mb) for workers in (0, 2)
    ]
    assert content(loaders[0]) == content(loaders[1])
    assert loaders[0].replaced == loaders[1].replaced
    for epoch in range(2):
        told = [bad for bad in loaders[1].replaced if bad.epoch == epoch]
        assert sorted(bad.index for bad in told) == list(BAD)
        for bad in told:
            assert bad.image_id == f"image-{bad.index:02d}.png"
            assert bad.image_id in bad.reason
            assert bad.replaced_by not in BAD
    for step in loaders[0]:
        for batch in step.micro_batches:
            assert not set(batch.indices.tolist()) & set(BAD)
            assert batch.labels.tolist() == [i % 5 for i in batch.indices.tolist()]


def test_a_resumed_run_replaces_by_the_same_images(file_set):
    whole = batches_of(file_set)
    expected = content(whole)
    resumed = batches_of(file_set, start_step=4)
    assert content(resumed) == expected[4:]
    assert resumed.replaced == whole.replaced[-len(resumed.replaced) :]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_split_without_a_readable_image_is_an_error(tmp_path, workers):
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(b"nothing")
    images = ImageSet.from_files(tmp_path, [f"{i}.jpg" for i in range(4)], np.zeros(4, np.int64))
    with pytest.raises(DataError, match="cannot be read") as error:
        list(batches_of(images, workers=workers))
    assert type(error.value) is DataError
    assert "data check" in error.value.hint
    assert "Traceback" not in error.value.message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_evaluation_image_is_an_error_that_names_it(file_set, workers):
    view = eval_transform(resolution=16, crop_pct=0.9)
    with pytest.raises(DataError, match="image-03") as error:
        list(eval_batches(file_set, transform=view, batch_size=8, workers=workers))
    assert "data.allow_bad=true" in error.value.hint


@pytest.mark.parametrize("workers", [0, 2])
def test_allowed_bad_images_are_delivered_black_and_listed(file_set, workers):
    view = eval_transform(resolution=16, crop_pct=0.9)
    loader = eval_batches(file_set, transform=view, batch_size=8, workers=workers, allow_bad=True)
    for _ in range(2):  # the list is of one pass
        batches = list(loader)
        assert [bad.index for bad in loader.bad] == list(BAD)
    images = torch.cat([batch.images for batch in batches])
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(N))
    assert not images[list(BAD)].any()
    assert images[[i for i in range(N) if i not in BAD]].flatten(1).any(dim=1).all()


# --- evaluation -----------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_each_image_once_over_all_processes(world_size, workers):
    images = pixel_set()
    view = eval_transform(resolution=16, crop_pct=0.9)
    seen = []
    for rank in range(world_size):
        loader = eval_batches(
            images, transform=view, batch_size=4, workers=workers, rank=rank, world_size=world_size
        )
        batches = list(loader)
        assert len(loader) == len(batches)
        for batch in batches:
            for image, label, index in zip(*batch[:3], strict=True):
                expected = view(noise(N)[index]).transpose(2, 0, 1)
                assert (image.numpy() == expected).all()
                assert label == images.labels[index]
        seen += [int(index) for batch in batches for index in batch.indices]
    assert sorted(seen) == list(range(N))


def test_a_process_without_images_evaluates_nothing():
    view = eval_transform(resolution=16, crop_pct=0.9)
    loader = eval_batches(
        pixel_set(2), transform=view, batch_size=4, workers=2, rank=2, world_size=3
    )
    assert list(loader) == []


# --- the decoded copy -----------------------------------------------------------------------


def test_a_small_split_is_decoded_once_to_the_same_pixels(file_set):
    calls = []
    reader = open_reader(file_set, decode_cache_mb=1, progress=lambda *done: calls.append(done))
    assert isinstance(reader, DecodedImages)
    assert calls[-1] == (N, N)
    direct = DirectReader(file_set)
    for index in range(N):
        if index in BAD:
            with pytest.raises(ImageError, match=f"image-{index:02d}"):
                reader.pixels(index)
        else:
            assert (reader.pixels(index) == direct.pixels(index)).all()


def test_the_copy_saves_decoding(file_set, monkeypatch):
    reader = open_reader(file_set, decode_cache_mb=1)
    monkeypatch.setattr(ImageSet, "read", lambda *_: pytest.fail("read again"))
    assert reader.pixels(0).shape == (16, 16, 3)


def uneven_set(tmp_path, *, misleading, side):
    """64 images of `side`; where misleading, those that the first look takes in are tiny."""
    big, small = Image.fromarray(noise(1, side)[0]), Image.fromarray(noise(1, 2)[0])
    probes = set(np.linspace(0, 63, 32).astype(int).tolist()) if misleading else set()
    paths = [f"{index}.bmp" for index in range(64)]
    for index, path in enumerate(paths):
        (small if index in probes else big).save(tmp_path / path)
    return ImageSet.from_files(tmp_path, paths, np.zeros(64, np.int64))


@pytest.mark.parametrize("misleading", [False, True])
def test_a_split_that_does_not_fit_is_read_as_asked(tmp_path, misleading):
    """Both when the first look tells so and when only decoding does."""
    images = uneven_set(tmp_path, misleading=misleading, side=130)
    assert isinstance(open_reader(images, decode_cache_mb=1), DirectReader)


def test_a_block_grows_where_the_first_look_was_too_low(tmp_path):
    images = uneven_set(tmp_path, misleading=True, side=130)
    reader = open_reader(images, decode_cache_mb=4)
    assert isinstance(reader, DecodedImages)
    for index in range(64):
        assert (reader.pixels(index) == DirectReader(images).pixels(index)).all()


def test_pixels_in_memory_are_not_copied():
    assert isinstance(open_reader(pixel_set(), decode_cache_mb=1), DirectReader)


def test_decoding_beforehand_can_be_stopped(file_set):
    def stop(_done, _count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_reader(file_set, decode_cache_mb=1, progress=stop)


# --- processes ------------------------------------------------------------------------------


def test_workers_outlive_signals_to_the_group_and_end_with_the_iteration():
    expected = content(batches_of(pixel_set(), epochs=4))
    iterator = iter(batches_of(pixel_set(), epochs=4, workers=2))
    steps = [next(iterator)]
    children = multiprocessing.active_children()
    assert len(children) == 2
    for child in children:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(child.pid, number)
    steps += list(iterator)
    assert content(steps) == expected
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_pythons_warning_of_forks_beside_threads_is_answered(monkeypatch):
    """From 3.12 on; OpenCV's and torch's threads are what it warns of."""
    fork = os.fork

    def warn_and_fork():
        warnings.warn(
            f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to "
            "deadlocks in the child.",
            DeprecationWarning,
            stacklevel=2,
        )
        return fork()

    monkeypatch.setattr(os, "fork", warn_and_fork)
    assert len(list(batches_of(pixel_set(), epochs=1, workers=1))) == 3


def test_more_workers_than_cores_pass_without_a_warning():
    workers = (os.cpu_count() or 1) + 1
    view = eval_transform(resolution=8, crop_pct=1.0)
    loader = eval_batches(pixel_set(), transform=view, batch_size=2, workers=workers)
    assert len(list(loader)) == N // 2


def test_an_iteration_left_early_ends_its_workers():
    iterator = iter(batches_of(pixel_set(), epochs=50, workers=1))
    next(iterator)
    del iterator
    gc.collect()
    assert not multiprocessing.active_children()


class Dying:
    """Samples whose worker is killed as the kernel does when memory runs out."""

    def __getitem__(self, _key):
        os.kill(os.getpid(), signal.SIGKILL)
        return WorkerBatch(None, [])


def test_a_killed_worker_is_told_with_advice():
    with pytest.raises(ResourceError, match="killed") as error:
        next(WorkerBatches(Dying(), [0], workers=1, pin_memory=False))
    assert "--workers" in error.value.hint


LEFT_RUNNING = """
import numpy as np
from deit_transfer.data.pipeline.workers import WorkerBatch, WorkerBatches

class Samples:
    def __getitem__(self, key):
        return WorkerBatch(None, [])

deliveries = WorkerBatches(Samples(), iter(range(10**6)), workers=1, pin_memory=False)
next(deliveries)
raise SystemExit(5)  # with the workers still at it
"""


def test_a_program_that_fails_is_not_held_up_by_its_workers():
    # held up, it would not end at all
    done = subprocess.run(
        [sys.executable, "-c", LEFT_RUNNING], capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 5, done.stderr.decode()


def test_jpeg_splits_train_too(tmp_path):
    for index in range(6):
        buffer = io.BytesIO()
        Image.fromarray(noise(6)[index]).save(buffer, "JPEG")
        (tmp_path / f"{index}.jpg").write_bytes(buffer.getvalue())
    images = ImageSet.from_files(tmp_path, [f"{i}.jpg" for i in range(6)], np.arange(6))
    assert content(batches_of(images)) == content(batches_of(images, decode_cache_mb=1))
