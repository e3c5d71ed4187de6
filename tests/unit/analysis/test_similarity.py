"""Cosines against torch, positions against scikit-learn and against loops over the grid."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from deit_transfer.analysis.similarity import (
    cosine,
    describe_cosines,
    describe_positions,
    map_overlap,
    position_similarity,
)


def test_cosines_are_those_of_torch() -> None:
    a, b = torch.randn(2, 5, 3, 16, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)
    np.testing.assert_allclose(cosine(a.numpy(), b.numpy()), expected.numpy(), atol=1e-12)


def test_cosines_stay_in_range_and_nothing_has_no_direction() -> None:
    vector = np.full(7, 0.1)
    assert cosine(vector, 3 * vector) == pytest.approx(1.0)
    assert cosine(vector, 3 * vector) <= 1.0
    assert cosine(vector, -vector) == pytest.approx(-1.0)
    assert cosine(np.zeros(7), vector) == 0.0


def test_spread_over_images() -> None:
    values = np.random.default_rng(0).random(200)
    facts = describe_cosines(values)
    assert facts["mean"] == pytest.approx(sum(values) / 200)
    assert facts["std"] == pytest.approx(
        math.sqrt(sum((v - facts["mean"]) ** 2 for v in values) / 199)
    )
    assert (values < facts["low"]).mean() == pytest.approx(0.05, abs=0.006)
    assert (values > facts["high"]).mean() == pytest.approx(0.05, abs=0.006)
    assert describe_cosines([0.3]) == {"mean": 0.3, "std": 0.0, "low": 0.3, "high": 0.3}


def test_positions_are_compared_with_all_of_the_grid() -> None:
    grid = np.random.default_rng(0).normal(size=(3, 4, 8))
    similarity = position_similarity(grid)
    assert similarity.shape == (3, 4, 3, 4)
    flat = cosine_similarity(grid.reshape(12, 8))
    np.testing.assert_allclose(similarity.reshape(12, 12), flat, atol=1e-12)


def test_kinds_of_pairs_are_those_of_loops() -> None:
    similarity = np.random.default_rng(0).random((3, 4, 3, 4))
    found: dict[str, list[float]] = {}
    places = [(row, column) for row in range(3) for column in range(4)]
    for r, c in places:
        for s, d in places:
            value = similarity[r, c, s, d]
            if abs(r - s) + abs(c - d) == 1:
                found.setdefault("neighbors", []).append(value)
            if r == s and c != d:
                found.setdefault("same_row", []).append(value)
            if r != s and c == d:
                found.setdefault("same_column", []).append(value)
            if r != s and c != d:
                found.setdefault("elsewhere", []).append(value)
    expected = {kind: sum(values) / len(values) for kind, values in found.items()}
    assert describe_positions(similarity) == pytest.approx(expected)


def test_a_grid_of_one_patch_has_no_pairs() -> None:
    assert describe_positions(np.ones((1, 1, 1, 1))) == {}


def test_overlap_is_the_mean_over_images() -> None:
    a = np.array([[[1.0, 0.0]], [[1.0, 1.0]]])  # (2, 1, 2)
    b = np.array([[[0.0, 2.0]], [[5.0, 5.0]]])
    assert map_overlap(a, b) == pytest.approx(0.5)
