"""Stage 2 by several processes: spherical k-means where each rank has its own users."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ClusteringConfig
from peel_ext.device.item_prior import add_component, part_tastes
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.partition import Partition
from peel_ext.train.clustering import choose_num_groups, nearest_group, normalise_rows

#: Users for each group, from whom the first centroids are chosen.
_SAMPLE = 64

#: Users whose distances are held at a time.
_CHUNK = 1 << 14

#: Movement of the centroids, as a share of the variance, below which they stand; scikit-learn's.
_TOLERANCE = 1e-4


def cluster_users(
    user_vectors: NDArray[np.float32],
    users: Partition,
    config: ClusteringConfig,
    num_items: int,
    ranks: Collectives,
    *,
    prior: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clusters the users of all ranks, as :func:`peel_ext.train.clustering.cluster_users` does.

    The first centroids come of k-means++ on a sample, which rank 0 runs; then every round sums over the
    own users, and the sums over all ranks. A centroid that nobody is nearest to stays where it is.

    Args:
        user_vectors: [num_own_users, dim].
        users: the partition of the users.
        config: the number of groups, and how k-means runs.
        num_items: items of the catalogue, which limit the number of groups.
        ranks: the processes.
        prior: as there.

    Returns:
        centroids float32 [num_groups, dim], the same on all ranks, and the group of each own user.
    """
    num_groups = choose_num_groups(users.size, num_items, config)
    units = normalise_rows(user_vectors if prior == 0 else part_tastes(user_vectors))
    centroids = _first_centroids(units, users, num_groups, config.seed, ranks)
    tolerance = _TOLERANCE * _variance(units, users.size, ranks)
    for _ in range(config.max_iterations):
        moved = _move(units, centroids, ranks)
        change = float(np.square(moved - centroids).sum())
        centroids = moved
        if change <= tolerance:
            break
    rounded = normalise_rows(centroids.astype(np.float32))
    groups = nearest_group(units, rounded)
    return rounded if prior == 0 else add_component(rounded, prior), groups


def _first_centroids(
    units: NDArray[np.float32], users: Partition, num_groups: int, seed: int, ranks: Collectives
) -> NDArray[np.float64]:
    count = min(users.size, max(_SAMPLE * num_groups, 1))
    drawn = np.sort(np.random.default_rng(seed).choice(users.size, count, replace=False))
    own = users.own(ranks.rank)
    mine = drawn[(drawn >= own.start) & (drawn < own.stop)] - own.start
    sample = ranks.collect(torch.from_numpy(units[mine]))
    made = np.zeros((0, units.shape[1]))
    if ranks.is_first:
        # Not at the top: importing it takes a second.
        from sklearn.cluster import kmeans_plusplus

        made, _ = kmeans_plusplus(sample.numpy(), num_groups, random_state=seed)
    first = torch.from_numpy(made.astype(np.float64))
    return np.asarray(ranks.copy(first, (num_groups, units.shape[1])).numpy())


def _variance(units: NDArray[np.float32], count: int, ranks: Collectives) -> float:
    """The mean over dimensions of the variance over all users."""
    wide = units.astype(np.float64)
    sums = torch.from_numpy(np.stack([wide.sum(axis=0), np.square(wide).sum(axis=0)]))
    mean, square = ranks.sum(sums).numpy() / count
    return float((square - mean**2).mean())


def _move(
    units: NDArray[np.float32], centroids: NDArray[np.float64], ranks: Collectives
) -> NDArray[np.float64]:
    """The means of the users nearest to each centroid."""
    num_groups, dim = centroids.shape
    sums = np.zeros((num_groups, dim + 1))  # the last column counts
    narrow = centroids.astype(np.float32)
    half = np.square(narrow).sum(axis=1) / 2
    for start in range(0, len(units), _CHUNK):
        part = units[start : start + _CHUNK]
        nearest = np.argmax(part @ narrow.T - half, axis=1)
        counted = np.concatenate([part, np.ones((len(part), 1))], axis=1, dtype=np.float64)
        np.add.at(sums, nearest, counted)
    sums = ranks.sum(torch.from_numpy(sums)).numpy()
    counts = sums[:, dim:]
    return np.where(counts > 0, sums[:, :dim] / np.maximum(counts, 1), centroids)
