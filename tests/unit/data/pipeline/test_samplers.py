"""Epoch order, repeated augmentation and the cut into steps and processes."""

import math

import numpy as np
import pytest
import torch

from deit_transfer.data.pipeline.samplers import StepPlan, epoch_order, epoch_views
from deit_transfer.errors import UsageError


def plan(**changes):
    arguments = {
        "seed": 0,
        "num_images": 50,
        "batch_size": 16,
        "micro_batch_size": 4,
        "epochs": 3,
        "resolution_for_epoch": lambda epoch: 32,
    }
    return StepPlan(**(arguments | changes))


# --- order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 50, 997])
def test_each_image_comes_once_in_an_epoch(n):
    order = epoch_order(3, 1, n)
    assert sorted(order[:, 0]) == list(range(n))
    assert not order[:, 1].any()


def test_order_follows_from_seed_and_epoch():
    orders = {
        (seed, epoch): tuple(epoch_order(seed, epoch, 40)[:, 0])
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == 16
    assert tuple(epoch_order(2, 3, 40)[:, 0]) == orders[2, 3]


def test_order_is_the_same_on_every_machine():
    # Computed once by hand-written Python integers; a resumed run must meet the same order.
    assert epoch_order(0, 0, 8)[:, 0].tolist() == [5, 3, 0, 1, 6, 7, 4, 2]


def test_order_is_uniform():
    n, epochs = 10, 4000
    places = np.zeros((n, n))
    for epoch in range(epochs):
        places[np.arange(n), epoch_order(7, epoch, n)[:, 0]] += 1
    chi_squared = ((places - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi_squared < 81 + 4 * math.sqrt(2 * 81)  # (n - 1)**2 degrees of freedom


# --- repeated augmentation ------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 30, 100, 255])
@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_repeats_show_each_image_in_turn_and_n_views_in_all(n, repeats):
    order = epoch_order(0, 2, n, repeats)
    once = epoch_order(0, 2, n)[:, 0]
    assert len(order) == n
    for place, (index, repetition) in enumerate(order):
        assert index == once[place // repeats]
        assert repetition == place % repeats
    assert len({tuple(view) for view in order}) == n


def reference_sampler(n, world_size, repeats, seed):
    """DeiT's RASampler as it reads, over all ranks: facebookresearch/deit samplers.py."""
    generator = torch.Generator().manual_seed(seed)
    permutation = torch.randperm(n, generator=generator).tolist()
    num_samples = math.ceil(n * repeats / world_size)
    num_selected = math.floor(n // 256 * 256 / world_size)
    indices = [index for index in permutation for _ in range(repeats)]
    indices += indices[: num_samples * world_size - len(indices)]
    ranks = [indices[rank::world_size][:num_selected] for rank in range(world_size)]
    return permutation, [index for step in zip(*ranks, strict=True) for index in step]


@pytest.mark.parametrize("n", [256, 600, 1020, 2040])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_deit_epochs_equal_the_reference_samplers(n, world_size):
    permutation, expected = reference_sampler(n, world_size, 3, seed=1)
    order = epoch_order(0, 0, n, 3, "deit")
    once = epoch_order(0, 0, n)[:, 0]
    # The same views once the two random permutations are laid over each other.
    renamed = dict(zip(once.tolist(), permutation, strict=True))
    assert [renamed[index] for index in order[:, 0].tolist()] == expected


def test_deit_epochs_refuse_a_split_of_which_nothing_would_remain():
    with pytest.raises(UsageError, match="255"):
        epoch_order(0, 0, 255, 3, "deit")
    assert len(epoch_order(0, 0, 255, 1, "deit")) == 255  # without repeats DeiT does not round


@pytest.mark.parametrize("n", [1, 31, 300, 1020, 2040])
@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("compat", ["", "deit"])
def test_epoch_views_count_what_the_order_holds(n, repeats, drop_last, compat):
    if compat and n < 256 and repeats > 1:
        pytest.skip("refused")
    order = epoch_order(0, 0, n, repeats, compat)
    if drop_last:
        order = order[: len(order) // 32 * 32]
    counted = epoch_views(
        num_images=n, repeats=repeats, compat=compat, batch_size=32, drop_last=drop_last
    )
    assert counted.views == len(order)
    assert counted.unique_images == len(set(order[:, 0].tolist()))


def test_flowers_coverage_is_told_honestly():
    """2,040 Flowers images, three repetitions, the paper's code: 1,792 views of 598 images."""
    assert epoch_views(num_images=2040, repeats=3, compat="deit") == (1792, 598)
    assert epoch_views(num_images=2040, repeats=3) == (2040, 680)


# --- steps ----------------------------------------------------------------------------------


def views_of(step):
    return [tuple(view) for part in step.micro_batches for view in part.samples.tolist()]


def test_steps_cover_every_view_of_every_epoch():
    steps = list(plan().steps())
    assert [step.step for step in steps] == list(range(12))
    assert [step.epoch for step in steps] == [0] * 4 + [1] * 4 + [2] * 4
    assert [step.global_batch_size for step in steps] == [16, 16, 16, 2] * 3
    for epoch in range(3):
        seen = [view for step in steps if step.epoch == epoch for view in views_of(step)]
        assert seen == [tuple(view) for view in epoch_order(0, epoch, 50).tolist()]


def test_drop_last_and_deit_leave_the_incomplete_batch_out():
    for changes in ({"compat": "deit"},):
        each = plan(**changes)
        assert each.steps_per_epoch == 3
        assert {step.global_batch_size for step in each.steps()} == {16}


@pytest.mark.parametrize("start", [0, 1, 4, 5, 11, 12])
def test_a_plan_starts_at_any_step(start):
    whole, rest = list(plan().steps()), list(plan().steps(start))
    assert [(step.step, views_of(step)) for step in rest] == [
        (step.step, views_of(step)) for step in whole[start:]
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("batch_size", "micro"), [(16, 4), (16, 5), (10, 3), (25, 25), (7, 2)])
def test_processes_share_the_same_batches(world_size, batch_size, micro):
    size = {"batch_size": batch_size, "micro_batch_size": micro, "num_images": 53, "repeats": 2}
    alone = list(plan(**size).steps())
    ranks = [list(plan(**size, rank=r, world_size=world_size).steps()) for r in range(world_size)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert all(part.micro_batches for part in parts)
        numbered = sorted(
            (micro_batch.number, micro_batch.samples.tolist())
            for part in parts
            for micro_batch in part.micro_batches
        )
        assert [number for number, _ in numbered] == list(range(len(numbered)))
        joined = [tuple(view) for _, samples in numbered for view in samples]
        assert joined == views_of(whole)
        assert max(len(samples) for _, samples in numbered) <= micro
        assert {part.global_batch_size for part in parts} == {whole.global_batch_size}


def test_micro_batches_are_the_same_where_there_are_enough():
    """So that a seed per micro-batch gives the same Mixup at one process and at two."""
    alone, first = plan(), plan(rank=1, world_size=2)
    for whole, part in zip(alone.steps(), first.steps(), strict=True):
        if whole.global_batch_size < 16:
            continue
        assert [m.number for m in part.micro_batches] == [1, 3]
        for mine, theirs in zip(part.micro_batches, whole.micro_batches[1::2], strict=True):
            assert (mine.samples == theirs.samples).all()


def test_resolution_follows_the_epoch():
    steps = plan(resolution_for_epoch=lambda epoch: 32 + 16 * epoch).steps()
    assert {(s.epoch, m.resolution) for s in steps for m in s.micro_batches} == {
        (0, 32),
        (1, 48),
        (2, 64),
    }


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_images": 0}, "no images"),
        ({"num_images": 15, "compat": "deit"}, "15 images, fewer than one batch of 16"),
        ({"world_size": 3}, "2 images cannot be shared by 3"),
        ({"batch_size": 2, "world_size": 4}, "shared by 4"),
    ],
)
def test_plans_without_a_step_for_everyone_are_refused(changes, match):
    with pytest.raises(UsageError, match=match):
        plan(**changes)


def test_a_split_smaller_than_a_batch_is_one_step():
    small = plan(num_images=5)
    assert small.steps_per_epoch == 1
    assert next(iter(small.steps())).global_batch_size == 5
