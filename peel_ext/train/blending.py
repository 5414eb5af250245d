"""Block weights for one user: what the nearest groups say, and the user's own list."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import BlendConfig, ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.block_weights.exposure import sum_exposure
from peel_ext.train.held_out import rank_unseen


def blend_for_users(
    embedding: ElasticEmbedding,
    user_vectors: NDArray[np.float32],
    seen: ItemLists,
    centroids: NDArray[np.float32],
    config: BlendConfig,
    exposure: ExposureConfig,
) -> ElasticEmbedding:
    """An embedding over the same rows with one user group for each of some users.

    User u gives group g the share

        s_g ~ exp(<u, c_g> / temperature)

    among the ``num_groups`` nearest centroids c; a user with a zero vector shares in all groups
    alike. What a block is worth is ``(1 - own_share) * sum_g s_g w_g + own_share * w_u``, with w_g
    the weights of group g and w_u the exposure of the items in the user's own list of unseen items,
    as the global table ranks them; each is scaled to a sum of 1.

    Args:
        embedding: the item table of all groups.
        user_vectors: float32 [m, dim], of length 1 or zero, m at least 1.
        seen: items each user has had.
        centroids: float32 [num_groups, dim], of length 1.
        config: the constants above.
        exposure: those of :func:`peel_ext.train.block_weights.exposure.measure_exposure`.

    Returns:
        An embedding of m groups (:meth:`peel_ext.nn.ElasticEmbedding.blend`).
    """
    own = own_values(user_vectors, embedding.weight.detach().numpy(), seen, exposure)
    total = own.sum(axis=1, keepdims=True)  # [m, 1]
    own *= np.divide(config.own_share, total, out=np.zeros_like(total), where=total > 0)
    shares = share_groups(user_vectors, centroids, config)
    shares *= np.where(total > 0, 1 - config.own_share, 1.0)
    return embedding.blend(torch.from_numpy(shares), torch.from_numpy(own))


def share_groups(
    user_vectors: NDArray[np.float32], centroids: NDArray[np.float32], config: BlendConfig
) -> NDArray[np.float64]:
    """The share float64 [m, num_groups] of every group in each user; rows have the sum 1."""
    cosines = (user_vectors @ centroids.T).astype(np.float64)
    count = min(config.num_groups, len(centroids))
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    among = np.take_along_axis(cosines, nearest, axis=1)
    weights = np.exp((among - among[:, :1]) / config.temperature)
    shares = np.zeros_like(cosines)
    np.put_along_axis(shares, nearest, weights / weights.sum(axis=1, keepdims=True), axis=1)
    shares[~user_vectors.any(axis=1)] = 1 / len(centroids)
    return shares


def own_values(
    user_vectors: NDArray[np.float32],
    items: NDArray[np.float32],
    seen: ItemLists,
    config: ExposureConfig,
) -> NDArray[np.float64]:
    """Exposure float64 [m, num_items] in each user's own list; of a zero vector nothing."""
    lists = rank_unseen(user_vectors, items, seen, config.depth)  # [m, depth]
    lists[~user_vectors.any(axis=1)] = -1
    num_users = len(user_vectors)
    return sum_exposure(lists, np.arange(num_users), num_users, len(items), config)
