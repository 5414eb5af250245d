"""LightGCN's smoothing over tables of which each rank has its own rows."""

from __future__ import annotations

import torch
from torch import Tensor

from peel_ext.models.lightgcn import csr_matrix
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.exchange import RowExchange
from peel_ext.scale.item_shard import ItemShard


class Propagation:
    """The normalised interactions of :class:`peel_ext.models.LightGCN`, as a linear map of tables.

    Args:
        shard: the interactions with the items of this rank.
        ranks: the processes.

    Attributes:
        device: where it computes, and tables are.
    """

    def __init__(self, shard: ItemShard, ranks: Collectives) -> None:
        self.device = shard.indptr.device
        counts = shard.indptr.diff()
        needed = counts.nonzero()[:, 0]
        self._exchange = RowExchange(needed, shard.users, ranks)
        degrees = counts[needed]
        # 32 bits are enough of an index within a rank, and half the memory.
        owners = torch.repeat_interleave(
            torch.arange(len(needed), dtype=torch.int32, device=needed.device), degrees
        )
        products = shard.degrees[needed].double()[owners] * shard.counts.double()[shard.columns]
        values = products.rsqrt_().float()
        ends = torch.cat([shard.indptr[:1], degrees.cumsum(0)]).int()
        by_item = torch.argsort(shard.columns, stable=True)
        item_ends = torch.cat([shard.indptr[:1], shard.counts.cumsum(0)]).int()
        shape = (len(needed), len(shard.counts))
        self._to_users = csr_matrix(ends, shard.columns, values, shape)
        self._to_items = csr_matrix(item_ends, owners[by_item], values[by_item], shape[::-1])

    def to_users(self, items: Tensor) -> Tensor:
        """The own users' rows of the interactions times an item table, of which these are the own rows."""
        return self._exchange.give(self._to_users @ items)

    def to_items(self, users: Tensor) -> Tensor:
        """The own items' rows of the transposed interactions times a user table."""
        return self._to_items @ self._exchange.fetch(users)

    def smooth(self, users: Tensor, items: Tensor, num_layers: int) -> tuple[Tensor, Tensor]:
        """The mean of all layers, of the own rows of both tables.

        The map is its own transpose: what it makes of the gradients of its results are those of its
        arguments.
        """
        user_sum, item_sum = users, items
        for _ in range(num_layers):
            arrived = self._exchange.fetch(users)
            users, items = self.to_users(items), self._to_items @ arrived
            user_sum, item_sum = user_sum + users, item_sum + items
        return user_sum / (num_layers + 1), item_sum / (num_layers + 1)
