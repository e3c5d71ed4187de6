"""Seed the generators for each step: every draw follows from (seed, step, micro-batch).

No generator's state is ever saved. A step seeds the generators before it prepares a micro-batch,
so a resumed run draws what the uninterrupted one would have drawn, at any number of processes.
"""

import hashlib
import random
import struct

import numpy as np
import torch


def seed_model(seed: int) -> None:
    """Seed all generators for the initialization of a model."""
    _seed_all(_mixed(b"model", seed))


def seed_batch_transforms(seed: int, step: int, micro_batch: int) -> None:
    """Seed all generators for the mixing and erasing of one micro-batch of one step.

    Args:
        seed: Of the augmentation; runs that share it see the same images.
        step: From 0.
        micro_batch: Its number within the step over all processes, from 0.
    """
    _seed_all(_mixed(b"prepare", seed, step, micro_batch))


def seed_step(seed: int, step: int, micro_batch: int) -> None:
    """Seed all generators for the forward passes of one micro-batch of one step.

    Args:
        seed: Of the run.
        step: From 0.
        micro_batch: Its number within the step over all processes, from 0.
    """
    _seed_all(_mixed(b"step", seed, step, micro_batch))


def _mixed(purpose: bytes, *numbers: int) -> int:
    # A hash, not a sum: (seed 0, step 1) and (seed 1, step 0) must not share their draws.
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8, person=purpose).digest(), "little")


def _seed_all(value: int) -> None:
    random.seed(value)
    np.random.seed([value & 0xFFFFFFFF, value >> 32])
    # Not torch.manual_seed: without a GPU it formats a stack trace each time, 1 ms a micro-batch.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)
