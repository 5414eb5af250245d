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
        self._arriving = torch.searchsorted(needed, edges).diff().cpu().tolist()
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


class Visits:
    """Rows of all ranks, users', that go to every rank, and what comes back to their owners.

    Args:
        count: rows of this rank.
        ranks: the processes.
    """

    def __init__(self, count: int, ranks: Collectives) -> None:
        counts = ranks.stack(torch.tensor([count], dtype=torch.int64, device="cpu"))
        self._ranks, self._count = ranks, count
        self._leaving, self._arriving = [count] * ranks.size, counts[:, 0].tolist()

    def send(self, rows: Tensor) -> Tensor:
        """The rows [m, ...] of all ranks, of own ones [count, ...]."""
        everywhere = rows.expand(self._ranks.size, *rows.shape).flatten(0, 1)
        return self._ranks.exchange_rows(everywhere, self._leaving, self._arriving)

    def bring_back(self, rows: Tensor) -> Tensor:
        """Brings back what every rank has for the own rows, [num_ranks, count, ...]; from here [m, ...]."""
        arrived = self._ranks.exchange_rows(rows, self._arriving, self._leaving)
        return arrived.view(self._ranks.size, self._count, *rows.shape[1:])


def in_batches(count: int, size: int, ranks: Collectives) -> list[slice]:
    """Runs of at most so many of own rows, as many runs on every rank; the last ones may be empty."""
    most = int(ranks.max(torch.tensor([count], dtype=torch.int64, device="cpu"))[0])
    return [slice(start, start + size) for start in range(0, most, size)]
