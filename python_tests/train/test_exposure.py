from __future__ import annotations

import math

import numpy as np
import pytest

from peel_ext.config import ExposureConfig
from peel_ext.train.exposure import measure_exposure


@pytest.mark.parametrize("depth", [3, 100])
def test_equals_the_plain_formula(depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users = rng.normal(size=(9, 4)).astype(np.float32)
    items = rng.normal(size=(12, 4)).astype(np.float32)
    group = rng.integers(3, size=9)
    lists = [np.sort(rng.permutation(12)[: rng.integers(6)]) for _ in range(9)]
    indptr = np.cumsum([0, *map(len, lists)])
    config = ExposureConfig(depth=depth, cutoff=2, slope=1.5)
    got = measure_exposure(users, items, group, 3, indptr, np.concatenate(lists), config)

    expected = np.zeros((3, 12))
    for user in range(9):
        scores = users[user] @ items.T
        unseen = [item for item in np.argsort(-scores).tolist() if item not in lists[user]]
        for rank, item in enumerate(unseen[:depth], start=1):
            expected[group[user], item] += 1 / (1 + math.exp((rank - 2) / 1.5))
        for item in lists[user]:
            expected[group[user], item] += 1e-3
            expected[:, item] += 1e-6
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_group_without_users_falls_back_on_popularity() -> None:
    indptr, seen = np.array([0, 2, 3]), np.array([0, 1, 1])
    values = measure_exposure(
        np.ones((2, 2), np.float32),
        np.ones((4, 2), np.float32),
        np.array([1, 1]),
        2,
        indptr,
        seen,
        ExposureConfig(),
    )
    np.testing.assert_allclose(values[0], [1e-6, 2e-6, 0, 0])
    assert (values[1] > values[0]).all()
