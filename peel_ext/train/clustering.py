"""Stage 2: user groups by spherical k-means on the user vectors."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import ClusteringConfig
from peel_ext.device.item_prior import add_component, part_tastes


def choose_num_groups(num_users: int, num_items: int, config: ClusteringConfig) -> int:
    """``config.num_groups``, or about one for every ``users_per_group`` users, within the limits."""
    affordable = config.max_cells // max(num_items, 1)
    fitting = min(round(num_users / config.users_per_group), config.max_groups, affordable)
    return max(1, min(config.num_groups or fitting, num_users))


def cluster_users(
    user_vectors: NDArray[np.float32],
    config: ClusteringConfig,
    num_items: int = 0,
    *,
    prior: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clusters unit vectors by cosine.

    k-means on unit vectors with Euclidean distance assigns by cosine up to the lengths of the
    centroids; those are normalised at the end and every user goes to the nearest (Dhillon and Modha,
    2001).

    Args:
        user_vectors: [num_users, dim]; zero vectors are allowed.
        config: the number of groups, and how k-means runs.
        num_items: items of the catalogue, which limit the number of groups.
        prior: the component of user vectors along the axis of the prior, which tells no user from
            another, and which centroids get as well; 0: none.

    Returns:
        centroids float32 [num_groups, dim] of length 1 but for the prior, and the group of each
        user [num_users].
    """
    # Not at the top: importing them takes a second, which who only asks for a group need not wait.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    num_groups = choose_num_groups(len(user_vectors), num_items, config)
    units = normalise_rows(user_vectors if prior == 0 else part_tastes(user_vectors))
    kmeans = KMeans(num_groups, n_init=1, max_iter=config.max_iterations, random_state=config.seed)
    with warnings.catch_warnings():
        # Fewer distinct vectors than groups leave groups empty, which is harmless here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans.fit(units)
    centroids = normalise_rows(kmeans.cluster_centers_.astype(np.float32))
    groups = nearest_group(units, centroids)
    return centroids if prior == 0 else add_component(centroids, prior), groups


def nearest_group(
    user_vectors: NDArray[np.float32], centroids: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The centroid with the largest cosine for each user [num_users], ties to the lower group."""
    return np.asarray(np.argmax(user_vectors @ centroids.T, axis=1), dtype=np.int64)


def normalise_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [n, dim] scaled to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
