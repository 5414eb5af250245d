"""The training interactions of the users of a rank."""

from __future__ import annotations

from dataclasses import dataclass

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

    def with_items(self, weights: NDArray[np.float32] | None, ranks: Collectives) -> ItemShard:
        """The interactions with the own items, of all users.

        Args:
            weights: how much each interaction here counts there, or None.
            ranks: the processes.
        """
        return ItemShard.of_users(self.lists, weights, self.users, self.items, ranks)
