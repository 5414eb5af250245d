"""The users of each protocol: known users, new users, and new users who go on without a network.

All of them rank every item a user has not had yet. They take arrays and functions, not a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import ItemLists
from peel_ext.device.fold_in import RowSample, continue_vectors
from peel_ext.evaluation.ranking import Audience, held_lists, rank


class FoldHistories(Protocol):
    """A function that folds histories in: :func:`peel_ext.device.fold_in.fold_in_users` with settings."""

    def __call__(
        self,
        rows: NDArray[np.float32],
        histories: ItemLists,
        *,
        sample: RowSample | None = None,
    ) -> NDArray[np.float32]:
        """Vectors [num_users, dim] of positions in rows [n, dim]."""


#: The group int64 [num_users] of each vector [num_users, dim].
AssignGroups = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def known_users(
    vectors: NDArray[np.float32], groups: NDArray[np.int64], seen: ItemLists, targets: ItemLists
) -> Audience:
    """Users of the training part, who are to find their target items.

    Args:
        vectors: float32 [num_users, dim].
        groups: int64 [num_users].
        seen: training items, ascending for each user; they are masked.
        targets: target items.
    """
    return Audience(vectors, groups, seen, targets)


def new_users(
    items: NDArray[np.float32],
    histories: ItemLists,
    targets: ItemLists,
    fold_in: FoldHistories,
    assign_groups: AssignGroups,
) -> Audience:
    """Users the model has never seen, folded in by the server with the full table.

    Args:
        items: float32 [num_items, dim], the full table.
        histories: what they did before; masked.
        targets: items to find.
        fold_in: makes vectors of histories.
        assign_groups: says to which group a vector belongs.
    """
    vectors = fold_in(items, histories)
    return Audience(vectors, assign_groups(vectors), histories, targets)


def fold_on_device(audience: Audience, histories: ItemLists, fold_in: FoldHistories) -> Audience:
    """The same users, folded in again on the device from the rows it holds."""

    def update(
        ids: NDArray[np.int64],
        rows: NDArray[np.float32],
        sample: RowSample | None,
        shipped: NDArray[np.float32],
        members: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        return fold_in(rows, held_lists(histories.take(members), ids), sample=sample)

    return replace(audience, update=update)


@dataclass(frozen=True, eq=False)
class OfflineUsers:
    """New users whose second half of the history happens on the device alone.

    Attributes:
        server: folded in by the server with the whole history: the ceiling.
        stale: with the vector, group and list of the download; with the full table this is the list
            shipped then, without what the user has had since: the floor.
        device: the same, but the device brings the vector up to date with the rows it holds.
        before: the histories known at download.
    """

    server: Audience
    stale: Audience
    device: Audience
    before: ItemLists


def offline_users(
    items: NDArray[np.float32],
    histories: ItemLists,
    targets: ItemLists,
    fold_in: FoldHistories,
    assign_groups: AssignGroups,
    prior: float = 0.0,
    list_length: int = 40,
    fold_on_server: FoldHistories | None = None,
) -> OfflineUsers:
    """The offline protocol.

    At download the server folds in the first half of a history, picks the group, and ships the
    vector and a list. Then the device folds in the items of the second half that it holds, and
    continues the vector with them; items of the list that it does not hold keep their scores. Users
    with fewer than two items in their history take no part.

    Args:
        items: float32 [num_items, dim], the full table.
        histories: items of each user, in the order of time.
        targets: items to find.
        fold_in: makes vectors of histories.
        assign_groups: says to which group a vector belongs.
        prior: the component of vectors along the axis of the prior; 0: none.
        list_length: items of the list shipped.
        fold_on_server: makes vectors of histories of all users with the full table; None: as
            ``fold_in`` does.
    """
    fold_on_server = fold_on_server or fold_in
    taking_part = np.flatnonzero(histories.counts >= 2)
    histories = histories.take(taking_part)
    targets = targets.take(taking_part)
    before, after = halve(histories)
    server = new_users(items, histories, targets, fold_on_server, assign_groups)
    shipped = fold_on_server(items, before)
    lists = rank(shipped, torch.from_numpy(items), min(list_length, len(items)), before)
    stale = replace(server, vectors=shipped, groups=assign_groups(shipped), shipped=lists)
    new_share = (after.counts / np.maximum(histories.counts, 1)).astype(np.float32)

    def update(
        ids: NDArray[np.int64],
        rows: NDArray[np.float32],
        sample: RowSample | None,
        shipped: NDArray[np.float32],
        members: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        folded = fold_in(rows, held_lists(after.take(members), ids), sample=sample)
        return continue_vectors(shipped, folded, new_share[members], prior=prior)

    return OfflineUsers(server, stale, replace(stale, update=update), before)


def halve(histories: ItemLists) -> tuple[ItemLists, ItemLists]:
    """The first and the second half of each user's history; of an odd one the second has more."""
    early = histories.places() < (histories.counts // 2)[histories.owners()]
    return histories.where(early), histories.where(~early)
