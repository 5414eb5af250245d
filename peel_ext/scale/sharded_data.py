"""The training interactions of the users of a rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext.data import ItemLists
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.partition import Partition


@dataclass(frozen=True, eq=False)
class ShardedData:
    """Interactions of the own users with items of all ranks, and all that is known of each.

    Attributes:
        lists: items of each own user, as all ranks number them, ascending.
        users: the partition of the users.
        items: the partition of the items.
        weights: how much each counts float64 [num_interactions], or None: all alike.
        timestamps: float64 [num_interactions], or None where there are none.
    """

    lists: ItemLists
    users: Partition
    items: Partition
    weights: NDArray[np.float64] | None = None
    timestamps: NDArray[np.float64] | None = None

    @classmethod
    def of_split(
        cls,
        split: Mapping[str, NDArray[Any]],
        num_items: int,
        ranks: Collectives,
        part: str = "train",
    ) -> ShardedData:
        """The own share of a part of a split, which every rank has read.

        Args:
            split: as of :func:`peel_ext.train.pipeline.split_arrays`.
            num_items: number of items.
            ranks: the processes.
            part: its name.

        Raises:
            DataError: fewer users or items than ranks.
        """
        lists = ItemLists.from_arrays(split, part)
        users = Partition.of("users", len(lists), ranks.size)
        items = Partition.of("items", num_items, ranks.size)
        own = users.own(ranks.rank)
        rows = slice(lists.indptr[own.start], lists.indptr[own.stop])

        def take(name: str) -> NDArray[np.float64] | None:
            # Copies, so that the whole can go.
            return split[name][rows].copy() if name in split else None

        return cls(
            ItemLists(
                lists.indptr[own.start : own.stop + 1] - rows.start, lists.items[rows].copy()
            ),
            users,
            items,
            take(f"{part}_weights"),
            take(f"{part}_timestamps"),
        )

    def with_items(self, weights: NDArray[np.float32] | None, ranks: Collectives) -> ItemShard:
        """The interactions with the own items, of all users.

        Args:
            weights: how much each interaction here counts there, or None.
            ranks: the processes.
        """
        return ItemShard.of_users(self.lists, weights, self.users, self.items, ranks)
