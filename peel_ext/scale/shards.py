"""Interactions of which every rank has those of its own users, a run of all users in ascending order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.config import SplitConfig
from peel_ext.data.interactions import IdMap, Interactions, RowsElsewhere
from peel_ext.data.readers import GivenParts
from peel_ext.data.splits import Split, split_interactions
from peel_ext.scale.collectives import Collectives
from peel_ext.scale.messages import count_before, exchange_counted
from peel_ext.scale.numbering import redistribute
from peel_ext.scale.partition import Partition
from peel_ext.scale.shared_overview import SharedOverview


@dataclass(frozen=True, eq=False)
class ShardedParts:
    """Interactions by what they are for, those of the users of this rank.

    Attributes:
        given: the parts; users are those of this rank, rows of items are those of all.
        overview: overview of all interactions, with the ids of the own run of items.
    """

    given: GivenParts
    overview: SharedOverview

    @classmethod
    def of(cls, given: GivenParts, ranks: Collectives) -> ShardedParts:
        """The share of this rank of what every rank has whole."""
        users = Partition(given.train.num_users, ranks.size).own(ranks.rank)
        partition = Partition(given.train.num_items, ranks.size)
        items = IdMap(given.train.items.ids[partition.own(ranks.rank)])
        parts = {name: getattr(given, name) for name in ("train", "validation", "test", "below")}
        start = 0
        for name, part in parts.items():
            if part is not None:
                parts[name] = _own_users(part, users, start)
                start += len(part)
        made = GivenParts(**parts, columns=given.columns)
        return cls(made, SharedOverview(items, partition, ranks))


@dataclass(frozen=True, eq=False)
class ShardedSplit:
    """A split of which every rank has its own users.

    Attributes:
        split: the split of the users of this rank: those of training and, with maps of their own, new ones.
            Their rows count from 0; rows of items are those of all. A user's interactions come in the
            order in which one process has them.
        users: which rank owns which users of training.
        new_users: which rank owns which new users.
        items: which rank owns which items.
        item_ids: ids of the own run of items.
    """

    split: Split
    users: Partition
    new_users: Partition
    items: Partition
    item_ids: IdMap


def split_shard(parts: ShardedParts, config: SplitConfig, ranks: Collectives) -> ShardedSplit:
    """Carves the parts of a run as one process does, on all ranks at the same time.

    Raises:
        DataError: on every rank: nothing is left to train on, or a split by time without timestamps.
    """
    given, overview = parts.given, parts.overview
    split = split_interactions(
        given.train, given.test, config,
        validation=given.validation, others=given.below, overview=overview,
    )  # fmt: skip
    moved: dict[str, Any] = {}
    partitions = []
    for names in (("train", "target", "others", "validation"), ("history", "history_target")):
        users = getattr(split, names[0]).users
        start, size = count_before(len(users), ranks)
        partition = Partition(size, ranks.size)
        partitions.append(partition)
        is_in_place = partition.own(ranks.rank) == slice(start, start + len(users))
        if ranks.total(int(is_in_place)) == ranks.size:
            continue
        ids = redistribute(users, partition, ranks)
        for name in names:
            part = getattr(split, name)
            if part is not None:
                moved[name] = _moved(part, start, ids, partition, ranks)
    return ShardedSplit(
        dataclasses.replace(split, **moved), partitions[0], partitions[1],
        overview.partition, overview.items,
    )  # fmt: skip


class Route:
    """The way of interactions to the owners of their users.

    Args:
        rows: rows of the users among all, integers [m].
        partition: partition of all users.
        ranks: the processes.
    """

    def __init__(self, rows: NDArray[np.integer], partition: Partition, ranks: Collectives) -> None:
        owners = (rows // max(partition.rows_per_rank, 1)).astype(np.int16)
        self._ranks = ranks
        # Short integers sort fastest, and there is no more memory of them than is needed.
        small = np.int32 if len(rows) < 1 << 31 else np.int64
        self._order = np.argsort(owners, kind="stable").astype(small)
        self._leaving = np.bincount(owners, minlength=ranks.size).tolist()
        counts = torch.tensor(self._leaving, dtype=torch.int64, device="cpu")
        self._arriving = ranks.stack(counts)[:, ranks.rank].tolist()

    def send_places(self, start: int) -> NDArray[np.int64]:
        """The places of the interactions, of which the first one here has the place ``start``."""
        return exchange_counted(
            self._order.astype(np.int64) + start, self._leaving, self._arriving, self._ranks
        )

    def send(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values [m] of the interactions; returns those that arrive, in the order of the ranks."""
        return exchange_counted(values[self._order], self._leaving, self._arriving, self._ranks)


def _moved(
    part: Interactions, start: int, users: IdMap, partition: Partition, ranks: Collectives
) -> Interactions:
    """Interactions of a run of users, sent to the owners of these.

    Args:
        part: what this rank has, with times and weights or without, as all ranks.
        start: the row among all users of the first one in the map of the part.
        users: ids of the own users of the partition.
        partition: partition of all users.
        ranks: the processes.

    Returns:
        Those of the own users, in the order of the ranks that sent them.
    """
    rows = part.user_rows + part.user_rows.dtype.type(start)
    route = Route(rows, partition, ranks)
    own = route.send(rows)
    own -= own.dtype.type(partition.start(ranks.rank))
    times, weights = (
        None if values is None else route.send(values) for values in (part.timestamps, part.weights)
    )
    return Interactions(own, route.send(part.item_rows), times, users, part.items, weights)


def _own_users(part: Interactions, users: slice, start: int) -> Interactions:
    """The interactions of some users; their positions begin at some number."""
    which = np.flatnonzero((part.user_rows >= users.start) & (part.user_rows < users.stop))
    own = part.select(which)
    return Interactions(
        (own.user_rows - users.start).astype(np.int32), own.item_rows, own.timestamps,
        IdMap(part.users.ids[users]), RowsElsewhere(part.num_items), own.weights, start + which,
    )  # fmt: skip
