"""Hold randomness to its promise: a pure function of (seed, step, micro-batch)."""

import random

import numpy as np
import torch

from deit_transfer.engine.seed import seed_model, seed_step


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_same_place_same_draws_whatever_came_before() -> None:
    seed_step(1, 2, 3)
    first = draws()
    draws()
    seed_model(9)
    seed_step(1, 2, 3)
    assert draws() == first


def test_every_place_draws_its_own() -> None:
    seen = set()
    for seed in range(4):
        seed_model(seed)
        seen.add(draws())
        for step in range(4):
            for micro_batch in range(4):
                seed_step(seed, step, micro_batch)
                seen.add(draws())
    assert len(seen) == 4 + 4**3
    for column in zip(*seen, strict=True):
        assert len(set(column)) == len(seen)
