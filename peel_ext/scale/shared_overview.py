"""The facts that splits must know of all interactions; every rank has those of its own users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data.collector import sort_distinct
from peel_ext.data.interactions import IdMap, Interactions, RowsElsewhere
from peel_ext.data.overview import Overview
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.exchange import RowExchange
from peel_ext.scale.messages import count_before, exchange, exchange_counted
from peel_ext.scale.numbering import redistribute
from peel_ext.scale.partition import Partition

#: Numbers drawn at a time.
_RUN = 1 << 20


class SharedOverview(Overview):
    """Answers by asking the other ranks: every rank calls every method at the same time.

    Users of a rank come before those of the next one. Interactions have positions.

    Args:
        items: ids of the own run of items.
        partition: partition of all items.
        ranks: the processes.

    Attributes:
        items: ids of the own run of items that are left.
        partition: partition of all items that are left.
    """

    def __init__(self, items: IdMap, partition: Partition, ranks: Collectives) -> None:
        self.items, self.partition = items, partition
        self._ranks = ranks

    def total(self, count: int) -> int:
        """The sum of a count over all ranks."""
        return self._ranks.total(count)

    def draw(self, interactions: Interactions, seed: int, dtype: Any) -> NDArray[np.floating[Any]]:
        """The numbers [m] that one process draws for the interactions of this rank.

        Every rank goes through the whole draw, a run at a time: a number costs 2 ns, and keeping its
        own ones takes the memory of these.
        """
        places, size = self._places(interactions)
        made: NDArray[np.floating[Any]] = np.empty(len(places), dtype=dtype)
        rng = np.random.default_rng(seed)
        for start in range(0, size, _RUN):
            run = rng.random(min(_RUN, size - start), dtype=dtype)
            low, high = np.searchsorted(places, [start, start + _RUN])
            made[low:high] = run[places[low:high] - start]
        return made

    def _places(self, interactions: Interactions) -> tuple[NDArray[np.int64], int]:
        """The place of each interaction among those that all ranks have, and how many these are."""
        positions = interactions.positions
        if positions is None:
            raise ValueError("interactions of which other ranks have some must have positions")
        size = self.total(len(positions))
        end_here = int(positions[-1]) + 1 if len(positions) else 0
        last = torch.tensor(end_here, dtype=torch.int64, device="cpu")
        end = int(self._ranks.max(last))
        if size == end:
            return positions, size
        runs = Partition(end, self._ranks.size)
        leaving = np.diff(np.searchsorted(positions, runs.edges)).tolist()
        asked, arriving = exchange(positions, leaving, self._ranks)
        own = runs.own(self._ranks.rank)
        asked -= own.start
        is_there = np.zeros(own.stop - own.start, dtype=bool)
        is_there[asked] = True
        ranked = np.cumsum(is_there) - 1
        before, _ = count_before(int(is_there.sum()), self._ranks)
        return exchange_counted(before + ranked[asked], arriving, leaving, self._ranks), size

    def value_at_rank(self, values: NDArray[np.float64], share: float) -> float:
        """The least value that at least a share of all do not exceed, found by halves."""
        wanted = int(np.ceil((self.total(len(values)) - 1) * np.float64(share)))
        keys = np.sort(_ordered(values.view(np.int64)))
        low, high = -(1 << 63), (1 << 63) - 1
        while low < high:
            middle = (low + high) // 2
            if self.total(int(np.searchsorted(keys, np.int64(middle), side="right"))) > wanted:
                high = middle
            else:
                low = middle + 1
        return float(_ordered(np.array([low], dtype=np.int64)).view(np.float64)[0])

    def choose_users(self, users: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
        """Those of the users [n] of this rank that one process chooses among all.

        For a moment every rank holds 8 bytes for each user of all: the draw is one of a whole.
        """
        start, size = count_before(len(users), self._ranks)
        chosen = np.random.default_rng(seed).choice(size, count, replace=False)
        chosen = chosen[(chosen >= start) & (chosen < start + len(users))]
        made: NDArray[np.int64] = users[chosen - start]
        return made

    def count_items(self, interactions: Interactions) -> NDArray[np.int64]:
        """For each interaction [m] how many there are in all with its item."""
        rows, places, counts = np.unique(
            interactions.item_rows, return_inverse=True, return_counts=True
        )
        plan = self._plan(rows)
        own = plan.give(torch.from_numpy(counts.astype(np.int64)))
        made: NDArray[np.int64] = plan.fetch(own).numpy()[places]
        return made

    def restrict(
        self, parts: Sequence[Interactions], left: Sequence[Interactions]
    ) -> list[Interactions]:
        """Parts without the users and items that have none of what is left on any rank."""
        users = sort_distinct(np.concatenate([part.users_with_any() for part in left]))
        found = self.items_with_any(left)
        before, size = count_before(int(found.sum()), self._ranks)
        new_rows = torch.from_numpy(np.where(found, before + np.cumsum(found) - 1, -1))
        made = []
        for part in parts:
            own = part.restrict(users)
            rows = sort_distinct(own.item_rows)
            renumbered = self._plan(rows).fetch(new_rows).numpy()
            renumbered = renumbered[np.searchsorted(rows, own.item_rows)]
            made.append(
                replace(
                    own.select(renumbered >= 0),
                    item_rows=renumbered[renumbered >= 0].astype(np.int32),
                    items=RowsElsewhere(size),
                )
            )
        self.partition = Partition(size, self._ranks.size)
        kept_ids = self.items.select(np.flatnonzero(found))
        self.items = redistribute(kept_ids, self.partition, self._ranks)
        return made

    def items_with_any(self, parts: Sequence[Interactions]) -> NDArray[np.bool_]:
        """For each item of the own run whether any rank has an interaction with it."""
        rows = sort_distinct(np.concatenate([part.item_rows for part in parts]))
        counts = self._plan(rows).give(torch.ones(len(rows), dtype=torch.int32, device="cpu"))
        made: NDArray[np.bool_] = counts.numpy() > 0
        return made

    def _plan(self, rows: NDArray[Any]) -> RowExchange:
        needed = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64))
        return RowExchange(needed, self.partition, self._ranks)


def _ordered(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits of finite float64 to integers of the same order, and back."""
    return bits ^ ((bits >> 63) & np.int64((1 << 63) - 1))
