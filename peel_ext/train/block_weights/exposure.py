"""The worth of each item to each user group: its exposure in the lists of the full model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peel_ext.config import ExposureConfig
from peel_ext.data import ItemLists
from peel_ext.train.held_out import rank_unseen
from peel_ext.train.population import Population


def measure_exposure(
    population: Population, config: ExposureConfig, device: str = "cpu"
) -> NDArray[np.float64]:
    """Row values for :meth:`peel_ext.nn.ElasticEmbedding.set_row_values`.

    The value of an item for a group is the sum over the group's users of
    ``1 / (1 + exp((rank - cutoff) / slope))``, rank from 1 in the user's list of unseen items, plus
    shares of the item's popularity in the group, for new users have not had what these users have,
    and overall, which orders what is left.

    Args:
        population: users, their training items and the vectors.
        config: the constants of the formula.
        device: the device that ranks (:func:`peel_ext.train.held_out.rank_unseen`).

    Returns:
        float64 [num_groups, num_items].
    """
    num_groups, num_items = len(population.centroids), len(population.item_vectors)
    user_group = population.user_group
    users = draw_members(
        user_group, num_groups, config.max_scores // max(num_items, 1), config.seed
    )
    lists = rank_unseen(
        population.user_vectors[users], population.item_vectors, population.lists.take(users),
        config.depth, device,
    )  # fmt: skip
    values = sum_exposure(lists, user_group[users], num_groups, num_items, config)
    sizes, drawn = (
        np.bincount(groups, minlength=num_groups) for groups in (user_group, user_group[users])
    )
    values *= (sizes / np.maximum(drawn, 1))[:, None]
    in_group = count_popularity(population.lists, user_group, num_groups, num_items)
    popularity = in_group.sum(axis=0)
    for own_values, counts in zip(values, in_group, strict=True):  # matrices of this size are large
        own_values += config.group_popularity_weight * counts
        own_values += config.popularity_weight * popularity
    return values


def draw_members(
    user_group: NDArray[np.int64], num_groups: int, max_users: int, seed: int
) -> NDArray[np.int64]:
    """Everybody, or the same random share of every group but at least one of each, ascending.

    Args:
        user_group: [num_users].
        num_groups: number of groups.
        max_users: number of users wanted; the ones that rounding up adds come on top.
        seed: seeds the draw.
    """
    num_users = len(user_group)
    if num_users <= max_users:
        return np.arange(num_users)
    shuffled = np.random.default_rng(seed).permutation(num_users)
    by_group = shuffled[np.argsort(user_group[shuffled], kind="stable")]
    sizes = np.bincount(user_group, minlength=num_groups)
    place = np.arange(num_users) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = np.ceil(sizes * (max(max_users, 1) / num_users)).astype(np.int64)
    return np.sort(by_group[place < np.repeat(wanted, sizes)])


def sum_exposure(
    lists: NDArray[np.int64],
    user_group: NDArray[np.int64],
    num_groups: int,
    num_items: int,
    config: ExposureConfig,
) -> NDArray[np.float64]:
    """Exposure of each item in each group [num_groups, num_items], popularity left out.

    Args:
        lists: [num_users, depth], as of :func:`rank_unseen`.
        user_group: [num_users].
        num_groups: number of groups.
        num_items: number of items.
        config: the constants of the formula.
    """
    worth = worth_of_ranks(lists.shape[1], config)
    cells = (user_group[:, None] * num_items + lists)[lists >= 0]
    shares = np.broadcast_to(worth, lists.shape)[lists >= 0]
    size = num_groups * num_items
    summed = np.bincount(cells, weights=shares, minlength=size)
    return np.asarray(summed.reshape(num_groups, num_items), dtype=np.float64)


def worth_of_ranks(depth: int, config: ExposureConfig) -> NDArray[np.float64]:
    """The worth of an item to a user at each rank from 1 to the depth [depth]."""
    ranks = np.arange(1, depth + 1)
    return np.asarray(1 / (1 + np.exp((ranks - config.cutoff) / config.slope)))


def count_popularity(
    lists: ItemLists, user_group: NDArray[np.int64], num_groups: int, num_items: int
) -> NDArray[np.int64]:
    """Interactions of each group's users with each item [num_groups, num_items]."""
    cells = user_group[lists.owners()] * num_items + lists.items
    counts = np.bincount(cells, minlength=num_groups * num_items)
    return np.asarray(counts.reshape(num_groups, num_items))
