"""What each item is worth to each user group: its exposure in the lists of the full model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ExposureConfig
from peel_ext.ops import gathered_score


def measure_exposure(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    user_group: NDArray[np.int64],
    num_groups: int,
    indptr: NDArray[np.int64],
    item_rows: NDArray[np.int64],
    config: ExposureConfig,
) -> NDArray[np.float64]:
    """Row values for :meth:`peel_ext.nn.ElasticEmbedding.set_row_values`.

    The value of an item for a group is the sum over the group's users of
    ``1 / (1 + exp((rank - cutoff) / slope))``, rank from 1 in the user's list of unseen items, plus
    small shares of the item's popularity in the group and overall, which order what no list shows.

    Args:
        user_vectors: [num_users, dim].
        item_vectors: [num_items, dim].
        user_group: [num_users].
        num_groups: number of groups.
        indptr: [num_users + 1], training interactions in CSR form.
        item_rows: ascending for each user.
        config: the constants of the formula.

    Returns:
        float64 [num_groups, num_items].
    """
    num_users, num_items = len(user_vectors), len(item_vectors)
    depth = min(config.depth, num_items)
    indices, _ = gathered_score(
        torch.from_numpy(user_vectors),
        torch.from_numpy(item_vectors),
        depth,
        exclude_indptr=torch.from_numpy(indptr),
        exclude=torch.from_numpy(item_rows),
    )
    ranks = np.arange(1, depth + 1)
    worth = 1 / (1 + np.exp((ranks - config.cutoff) / config.slope))
    lists = indices.numpy()  # [num_users, depth]
    cells = (user_group[:, None] * num_items + lists)[lists >= 0]
    shares = np.broadcast_to(worth, lists.shape)[lists >= 0]
    size = num_groups * num_items
    values = np.bincount(cells, weights=shares, minlength=size).reshape(num_groups, num_items)
    owner = np.repeat(np.arange(num_users), np.diff(indptr))
    popularity = np.bincount(user_group[owner] * num_items + item_rows, minlength=size)
    in_group = popularity.reshape(num_groups, num_items)
    return np.asarray(
        values
        + config.group_popularity_weight * in_group
        + config.popularity_weight * in_group.sum(axis=0)
    )
