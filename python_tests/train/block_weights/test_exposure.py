from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import ArrayLike

from peel_ext.config import ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.train.block_weights.exposure import draw_members, measure_exposure
from peel_ext.train.population import Population


def make_population(
    users: np.ndarray, items: np.ndarray, group: np.ndarray, lists: Sequence[ArrayLike]
) -> Population:
    """Users in 3 groups."""
    centroids = np.zeros((3, users.shape[1]), np.float32)
    return Population(users, items, group, centroids, ItemLists.from_lists(lists), 1.0)


@pytest.mark.parametrize("depth", [3, 100])
def test_equals_the_plain_formula(depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users = rng.normal(size=(9, 4)).astype(np.float32)
    items = rng.normal(size=(12, 4)).astype(np.float32)
    group = rng.integers(3, size=9)
    lists = [np.sort(rng.permutation(12)[: rng.integers(6)]) for _ in range(9)]
    config = ExposureConfig(
        depth=depth, cutoff=2, slope=1.5, group_popularity_weight=0.25, popularity_weight=0.01
    )
    got = measure_exposure(make_population(users, items, group, lists), config)

    expected = np.zeros((3, 12))
    for user in range(9):
        scores = users[user] @ items.T
        unseen = [item for item in np.argsort(-scores).tolist() if item not in lists[user]]
        for rank, item in enumerate(unseen[:depth], start=1):
            expected[group[user], item] += 1 / (1 + math.exp((rank - 2) / 1.5))
        for item in lists[user]:
            expected[group[user], item] += 0.25
            expected[:, item] += 0.01
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_group_without_users_falls_back_on_popularity() -> None:
    users, items = np.ones((2, 2), np.float32), np.ones((4, 2), np.float32)
    population = make_population(users, items, np.array([1, 1]), [[0, 1], [1]])
    values = measure_exposure(population, ExposureConfig())
    np.testing.assert_allclose(values[0], [1e-6, 2e-6, 0, 0])
    assert (values[1] > values[0]).all()


def test_some_users_stand_for_all(seed: int) -> None:
    """Where the users of a group are alike, a share of them says the same."""
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=40)
    users = rng.normal(size=(3, 4)).astype(np.float32)[group]
    items = rng.normal(size=(12, 4)).astype(np.float32)
    population = make_population(users, items, group, [[]] * 40)
    everybody, some = (
        measure_exposure(population, ExposureConfig(max_scores=scores))
        for scores in (40 * 12, 10 * 12)
    )
    np.testing.assert_allclose(some, everybody, rtol=1e-12)


def test_drawn_members_keep_the_shares_of_groups(seed: int) -> None:
    group = np.array([2] * 50 + [0] * 10 + [4])
    drawn = draw_members(group, 5, 20, seed)
    assert np.array_equal(drawn, np.unique(drawn))
    assert np.bincount(group[drawn], minlength=5).tolist() == [4, 0, 17, 0, 1]
    assert np.array_equal(draw_members(group, 5, 20, seed), drawn)
    assert not np.array_equal(draw_members(group, 5, 20, seed + 1), drawn)
    assert draw_members(group, 5, 61, seed).tolist() == list(range(61))
    assert len(draw_members(group, 5, 0, seed)) == 3
    assert len(draw_members(np.zeros(0, np.int64), 5, 3, seed)) == 0
