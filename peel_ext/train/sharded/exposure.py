"""The worth of each item to the own user groups; see :mod:`peel_ext.train.block_weights.exposure`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import ExposureConfig
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.partition import Partition
from peel_ext.scale.ranking import rank_unseen
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.train.block_weights.exposure import draw_members, worth_of_ranks

#: Users of each rank whose lists are made and sent at a time.
_BATCH = 4096


def measure_exposure(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    user_group: NDArray[np.int64],
    groups: Partition,
    data: ShardedData,
    seen: ItemShard,
    config: ExposureConfig,
    ranks: Collectives,
) -> NDArray[np.float64]:
    """Row values as :func:`peel_ext.train.block_weights.exposure.measure_exposure` has them, in parts.

    Every rank lists the own users' best items among those of all, and tells the owners of the groups.

    Args:
        user_vectors: [num_own_users, dim].
        item_vectors: [num_own_items, dim].
        user_group: [num_own_users].
        groups: the partition of the groups.
        data: the own users' training interactions.
        seen: those with the own items.
        config: the constants of the formula.
        ranks: the processes.

    Returns:
        float64 [num_own_groups, num_items].
    """
    num_items, own = data.items.size, data.users.own(ranks.rank)
    everybody = ranks.join(torch.from_numpy(user_group)).numpy()
    drawn = draw_members(
        everybody, groups.size, config.max_scores // max(num_items, 1), config.seed
    )
    values = _GroupSums(groups, num_items, np.float64, ranks)
    mine = drawn[(drawn >= own.start) & (drawn < own.stop)]
    worth = worth_of_ranks(min(config.depth, num_items), config)
    for rows in _batches(mine, ranks):
        at = rows - own.start
        lists = rank_unseen(rows, user_vectors[at], item_vectors, seen, config.depth, ranks)
        there = lists >= 0
        cells = (user_group[at][:, None] * num_items + lists)[there]
        values.add(cells, np.broadcast_to(worth, lists.shape)[there])
    sizes, counted = (
        np.bincount(each, minlength=groups.size) for each in (everybody, everybody[drawn])
    )
    scale = sizes / np.maximum(counted, 1)
    values.cells *= scale[groups.own(ranks.rank), None]
    in_group = _GroupSums(groups, num_items, np.int32, ranks)
    for rows in _batches(np.arange(len(user_group)), ranks):
        lists_of_rows = data.lists.take(rows)
        cells = user_group[rows][lists_of_rows.owners()] * num_items + lists_of_rows.items
        in_group.add(cells, None)
    popularity = ranks.join(seen.counts).numpy()
    for own_values, counts in zip(values.cells, in_group.cells, strict=True):
        own_values += config.group_popularity_weight * counts
        own_values += config.popularity_weight * popularity
    return values.cells


class _GroupSums:
    """Sums over the users of all ranks, for the own groups and all items.

    Attributes:
        cells: [num_own_groups, num_items].
    """

    def __init__(
        self, groups: Partition, num_items: int, dtype: type[np.generic], ranks: Collectives
    ) -> None:
        self._groups, self._num_items, self._ranks = groups, num_items, ranks
        self.cells = np.zeros((groups.count(ranks.rank), num_items), dtype=dtype)

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


def _batches(rows: NDArray[np.int64], ranks: Collectives) -> list[NDArray[np.int64]]:
    """Rows in runs, as many on every rank; the last ones may be empty."""
    most = int(ranks.max(torch.tensor([len(rows)], dtype=torch.int64, device="cpu"))[0])
    return [rows[start : start + _BATCH] for start in range(0, most, _BATCH)]
