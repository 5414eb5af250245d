"""Rows of a table that ranks need of each other, and what they give back to the owners."""

from __future__ import annotations

import torch
from torch import Tensor

from peel_ext.scale.collectives import Collectives
from peel_ext.scale.partition import Partition


class RowExchange:
    """A plan by which each rank gets the rows it needs, time and again; every rank makes one.

    Args:
        needed: rows this rank needs, int64 [m], ascending and distinct.
        partition: partition of the table.
        ranks: the processes.
    """

    def __init__(self, needed: Tensor, partition: Partition, ranks: Collectives) -> None:
        self._ranks = ranks
        edges = torch.from_numpy(partition.edges).to(needed.device)
        self._arriving = torch.searchsorted(needed, edges).diff().tolist()
        asked = ranks.exchange(needed.split(self._arriving))
        self._leaving = [len(each) for each in asked]
        self._wanted = torch.cat(asked) - partition.start(ranks.rank)  # own rows, by who needs them
        self._num_own = partition.count(ranks.rank)

    def fetch(self, own: Tensor) -> Tensor:
        """The needed rows [m, ...] of a table of which this rank has its own rows [n, ...]."""
        return self._ranks.exchange_rows(own[self._wanted], self._leaving, self._arriving)

    def give(self, rows: Tensor) -> Tensor:
        """Sums [n, ...] of what all ranks have for each of the own rows; from this one [m, ...].

        It is the transpose of :meth:`fetch`.
        """
        arrived = self._ranks.exchange_rows(rows, self._arriving, self._leaving)
        sums = arrived.new_zeros((self._num_own, *arrived.shape[1:]))
        return sums.index_add_(0, self._wanted, arrived)
