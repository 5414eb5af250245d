"""The interactions with the items of a rank, of all users.

Users' rows are brought to the items, not items' rows to the users: of a table as large as the
catalogue, a rank never needs more than its own part.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.data import ItemLists
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.partition import Partition


@dataclass(frozen=True, eq=False)
class ItemShard:
    """Interactions with the items of this rank, in CSR form over all users.

    Attributes:
        users: the partition of the users.
        items: the partition of the items.
        indptr: int64 [num_users + 1].
        columns: int32 [num_interactions], items counted from the first of this rank, ascending for
            each user.
        weights: float32 [num_interactions], how much each counts, or None: all alike.
        degrees: int64 [num_users], interactions of each user with any item.
        counts: int64 [num_own_items], interactions of each item.
    """

    users: Partition
    items: Partition
    indptr: Tensor
    columns: Tensor
    weights: Tensor | None
    degrees: Tensor
    counts: Tensor

    @classmethod
    def of_users(
        cls,
        lists: ItemLists,
        weights: NDArray[np.float32] | None,
        users: Partition,
        items: Partition,
        ranks: Collectives,
    ) -> ItemShard:
        """Brings interactions from the owners of the users to the owners of the items.

        Args:
            lists: items of each of this rank's users, ascending.
            weights: how much each counts, or None.
            users: the partition of the users.
            items: the partition of the items.
            ranks: the processes.
        """
        owners = lists.owners() + users.start(ranks.rank)
        to = items.owners(lists.items)
        order = np.argsort(to, kind="stable")  # by rank, then as they came
        leaving = np.bincount(to, minlength=ranks.size).tolist()
        local = lists.items - items.edges[to]

        def send(values: NDArray[np.generic]) -> Tensor:
            parts = torch.from_numpy(values[order]).split(leaving)
            return torch.cat(ranks.exchange(parts))

        # Ranks own ascending users, so that what arrives is by user, and by item within one.
        arrived = send(owners.astype(np.int32))
        columns = send(local.astype(np.int32))
        return cls(
            users,
            items,
            _ends(arrived, users.size),
            columns,
            None if weights is None else send(weights),
            ranks.join(torch.from_numpy(lists.counts)),
            torch.bincount(columns, minlength=items.count(ranks.rank)),
        )

    def to(self, device: torch.device | str) -> ItemShard:
        """The same on a device."""
        return dataclasses.replace(
            self, indptr=self.indptr.to(device), columns=self.columns.to(device),
            weights=None if self.weights is None else self.weights.to(device),
            degrees=self.degrees.to(device), counts=self.counts.to(device),
        )  # fmt: skip

    def lists_of(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The lists of some users in CSR form, int64, of items counted from the first of this rank."""
        wanted = torch.from_numpy(rows)
        taken, places = self.places_of(wanted)
        return taken, self.columns[places].long()

    def places_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The places [m] of the interactions of some users, and the indptr of the users."""
        counts = self.indptr[rows + 1] - self.indptr[rows]
        taken = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        shifts = torch.repeat_interleave(self.indptr[rows] - taken[:-1], counts)
        return taken, torch.arange(len(shifts), device=shifts.device) + shifts


def _ends(owners: Tensor, num_users: int) -> Tensor:
    """The indptr of interactions that are by user."""
    counts = torch.bincount(owners, minlength=num_users)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
