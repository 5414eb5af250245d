"""Users and items in parts, and the users of a rank's own groups: what is learned for each group."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import ItemLists
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.exchange import RowExchange
from peel_ext.scale.item_shard import ItemShard
from peel_ext.scale.messages import exchange
from peel_ext.scale.partition import Partition
from peel_ext.scale.sharded_data import ShardedData
from peel_ext.train.held_out import draw_users
from peel_ext.train.population import FOLD_IN_STEPS
from peel_ext.train.sharded.fold_in import fold_in_users
from peel_ext.train.sharded.held_out import hold_out


@dataclass(frozen=True, eq=False)
class OwnMembers:
    """The users of the own groups, as :class:`peel_ext.train.population.Members` has them."""

    user_vectors: NDArray[np.float32]
    user_group: NDArray[np.int64]
    lists: ItemLists
    temperature: float
    num_items: int


@dataclass(frozen=True, eq=False)
class ShardedPopulation:
    """Own users, what they interacted with, and the own rows of the model's vectors.

    Attributes:
        rows: int64 [num_users], the own users that take part, as all ranks number them, ascending.
        user_vectors: float32 [num_users, dim], of length 1 but for the prior.
        item_vectors: float32 [num_own_items, dim].
        user_group: int64 [num_users].
        centroids: float32 [num_groups, dim], the same on all ranks.
        lists: training items of each of these users, as all ranks number them.
        seen: interactions of all users with the own items.
        temperature: temperature of pretraining.
        prior: the component of user vectors along the axis of the prior; 0: rows have none.
        ranks: the processes.
        device: the device that ranks, one of :data:`peel_ext.config.DEVICES`.
    """

    rows: NDArray[np.int64]
    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    user_group: NDArray[np.int64]
    centroids: NDArray[np.float32]
    lists: ItemLists
    seen: ItemShard
    temperature: float
    prior: float
    ranks: Collectives
    device: str = "cpu"

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return self.seen.items.size

    @property
    def groups(self) -> Partition:
        """The partition of the groups."""
        return Partition(len(self.centroids), self.ranks.size)

    @property
    def own_groups(self) -> range:
        """The groups of this rank."""
        own = self.groups.own(self.ranks.rank)
        return range(own.start, own.stop)

    @cached_property
    def group_sizes(self) -> NDArray[np.int64]:
        """Users of each group that take part, on all ranks: int64 [num_groups]."""
        own = np.bincount(self.user_group, minlength=len(self.centroids))
        return np.asarray(self.ranks.sum(torch.from_numpy(own)).numpy())

    def without_some(
        self, share: float, max_users: int, seed: int
    ) -> tuple[ShardedPopulation, ItemLists]:
        """Does what :meth:`peel_ext.train.population.Population.without_some` does, for own users."""
        whole = ShardedData(self.lists, self.seen.users, self.seen.items)
        left, held_out = hold_out(whole, "random", share, seed, self.ranks)
        usable = self.ranks.join(torch.from_numpy(held_out.counts > 0).byte())
        drawn = draw_users(np.flatnonzero(usable.numpy()), max_users, seed)
        own = self.seen.users.own(self.ranks.rank)
        rows = drawn[(drawn >= own.start) & (drawn < own.stop)]
        at = rows - own.start
        made = dataclasses.replace(
            self, rows=rows, user_group=self.user_group[at], lists=left.lists.take(at),
            seen=left.with_items(None, self.ranks),
        )  # fmt: skip
        vectors = fold_in_users(
            rows, self.item_vectors, made.seen, self.ranks, steps=FOLD_IN_STEPS,
            temperature=self.temperature, prior=self.prior,
        )  # fmt: skip
        return dataclasses.replace(made, user_vectors=vectors), held_out.take(at)

    def bring_members(self) -> OwnMembers:
        """Brings users to the owners of their groups; those of a group come in their order."""
        to = self.groups.owners(self.user_group)
        order = np.argsort(to, kind="stable")
        leaving = np.bincount(to, minlength=self.ranks.size).tolist()
        lists, ends = self.lists.take(order), np.concatenate([[0], np.cumsum(leaving)])

        def send(values: NDArray[Any]) -> NDArray[Any]:
            return exchange(values[order], leaving, self.ranks)[0]

        items, _ = exchange(lists.items, np.diff(lists.indptr[ends]).tolist(), self.ranks)
        return OwnMembers(
            send(self.user_vectors), send(self.user_group),
            ItemLists.from_counts(send(self.lists.counts), items), self.temperature, self.num_items,
        )  # fmt: skip

    def fetch_items(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors [..., dim] of items [...] of any rank; each is sent once."""
        needed, places = np.unique(rows, return_inverse=True)
        plan = RowExchange(torch.from_numpy(needed), self.seen.items, self.ranks)
        fetched = plan.fetch(torch.from_numpy(self.item_vectors)).numpy()
        return np.asarray(fetched[places.reshape(rows.shape)])
