from __future__ import annotations

import numpy as np
import pytest

from peel_ext.config import ClusteringConfig
from peel_ext.train.clustering import choose_num_groups, cluster_users, nearest_group


@pytest.mark.parametrize(
    ("num_users", "config", "expected"),
    [
        (1000, ClusteringConfig(users_per_group=100), 10),
        (1000, ClusteringConfig(num_groups=7), 7),
        (10, ClusteringConfig(), 1),
        (3, ClusteringConfig(num_groups=5), 3),
        (10**6, ClusteringConfig(), 512),
        (10**6, ClusteringConfig(max_cells=1_000), 10),
        (10**6, ClusteringConfig(max_cells=1), 1),
    ],
)
def test_number_of_groups(num_users: int, config: ClusteringConfig, expected: int) -> None:
    assert choose_num_groups(num_users, 100, config) == expected


def test_bundles_of_directions_are_found_whatever_their_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(8, 4)))[0].T
    owner = np.repeat(np.arange(4), 50)
    users = axes[owner] + 0.05 * rng.normal(size=(200, 8))
    users = (users * rng.uniform(0.1, 10, size=(200, 1))).astype(np.float32)
    centroids, group = cluster_users(users, ClusteringConfig(num_groups=4, seed=1))
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
    # k-means may join two bundles; whoever shares a bundle shares a group all the same.
    for bundle in range(4):
        assert len(set(group[owner == bundle])) == 1
    assert np.array_equal(group, nearest_group(users, centroids))


def test_zero_and_equal_vectors() -> None:
    users = np.zeros((6, 3), np.float32)
    users[3:] = [0, 1, 0]
    centroids, group = cluster_users(users, ClusteringConfig(num_groups=4))
    assert centroids.shape == (4, 3)
    assert np.isfinite(centroids).all()
    assert len(set(group[3:])) == 1


def test_ties_go_to_the_lower_group() -> None:
    centroids = np.array([[0, 1], [1, 0], [1, 0]], np.float32)
    assert nearest_group(np.array([[1, 0], [1, 1]], np.float32), centroids).tolist() == [1, 0]


def test_a_seed_decides() -> None:
    users = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    first = cluster_users(users, ClusteringConfig(num_groups=9, seed=1))
    again = cluster_users(users, ClusteringConfig(num_groups=9, seed=1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
