"""The worth of each item to the own user groups; see :mod:`peel_ext.train.block_weights.exposure`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ExposureConfig
from peel_ext.scale.exchange import in_batches
from peel_ext.scale.messages import count_before
from peel_ext.scale.ranking import rank_unseen
from peel_ext.train.block_weights.exposure import draw_members, worth_of_ranks
from peel_ext.train.placement import ranking_device
from peel_ext.train.sharded.population import ShardedPopulation

#: Users of each rank whose lists are made and sent at a time.
BATCH = 4096


def measure_exposure(population: ShardedPopulation, config: ExposureConfig) -> NDArray[np.float64]:
    """Row values as :func:`peel_ext.train.block_weights.exposure.measure_exposure` has them, in parts.

    Every rank lists the own users' best items among those of all, and tells the owners of the groups.

    Args:
        population: users, their training items and the vectors.
        config: the constants of the formula.

    Returns:
        float64 [num_own_groups, num_items].
    """
    ranks = population.ranks
    drawn, sizes, counted = _draw_members(population, config)
    values = sum_exposure(population, drawn, config)
    values *= (sizes / np.maximum(counted, 1))[population.groups.own(ranks.rank), None]
    popularity = ranks.join(population.seen.counts).numpy()
    for own_values, counts in zip(values, count_popularity(population), strict=True):
        own_values += config.group_popularity_weight * counts
        own_values += config.popularity_weight * popularity
    return values


def sum_exposure(
    population: ShardedPopulation, users: NDArray[np.int64], config: ExposureConfig
) -> NDArray[np.float64]:
    """Exposure of each item in each own group [num_own_groups, num_items], popularity left out.

    Args:
        population: users, their training items and the vectors.
        users: places [m] in it of the users whose lists count.
        config: the constants of the formula.
    """
    num_items = population.num_items
    values = GroupSums(population, np.float64)
    worth = worth_of_ranks(min(config.depth, num_items), config)
    for part in in_batches(len(users), BATCH, population.ranks):
        at = users[part]
        lists = rank_users(population, at, config.depth)
        there = lists >= 0
        cells = (population.user_group[at][:, None] * num_items + lists)[there]
        values.add(cells, np.broadcast_to(worth, lists.shape)[there])
    return values.cells


def count_popularity(population: ShardedPopulation) -> NDArray[np.int32]:
    """Interactions of each own group's users with each item, int32 [num_own_groups, num_items]."""
    in_group = GroupSums(population, np.int32)
    everybody = np.arange(len(population.rows))
    for part in in_batches(len(everybody), BATCH, population.ranks):
        lists = population.lists.take(everybody[part])
        cells = population.user_group[part][lists.owners()] * population.num_items + lists.items
        in_group.add(cells, None)
    return in_group.cells


def rank_users(
    population: ShardedPopulation, at: NDArray[np.int64], depth: int
) -> NDArray[np.int64]:
    """The unseen items [m, depth] of own users, who are at those places in the population."""
    return rank_unseen(
        population.rows[at], population.user_vectors[at], population.item_vectors, population.seen,
        depth, population.ranks, ranking_device(population.device),
    )  # fmt: skip


def _draw_members(
    population: ShardedPopulation, config: ExposureConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Places of the own users who are drawn, and how many each group has, and has drawn."""
    ranks, num_groups = population.ranks, population.groups.size
    everybody = ranks.join(torch.from_numpy(population.user_group)).numpy()
    first, _ = count_before(len(population.rows), ranks)
    drawn = draw_members(
        everybody, num_groups, config.max_scores // max(population.num_items, 1), config.seed
    )
    mine = drawn[(drawn >= first) & (drawn < first + len(population.rows))] - first
    sizes, counted = (
        np.bincount(each, minlength=num_groups) for each in (everybody, everybody[drawn])
    )
    return mine, sizes, counted


class GroupSums:
    """Sums over the users of all ranks, for the own groups and all items.

    Attributes:
        cells: [num_own_groups, num_items].
    """

    def __init__(self, population: ShardedPopulation, dtype: type[np.generic]) -> None:
        self._groups, self._num_items = population.groups, population.num_items
        self._ranks = population.ranks
        self.cells = np.zeros((self._groups.count(self._ranks.rank), self._num_items), dtype=dtype)

    def add(self, cells: NDArray[np.int64], values: NDArray[np.float64] | None) -> None:
        """Adds values, or ones, to cells (group times num_items plus item) of any rank's groups."""
        to = self._groups.owners(cells // self._num_items)
        order = np.argsort(to, kind="stable")
        leaving = np.bincount(to, minlength=self._ranks.size).tolist()

        def send(array: NDArray[Any]) -> NDArray[Any]:
            arrived = self._ranks.exchange(torch.from_numpy(array[order]).split(leaving))
            return np.asarray(torch.cat(arrived).numpy())

        places = send(cells) - self._groups.start(self._ranks.rank) * self._num_items
        added = 1 if values is None else send(values)
        np.add.at(self.cells.reshape(-1), places, added)
