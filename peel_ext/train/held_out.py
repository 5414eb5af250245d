"""Interactions kept back from a stage so that its choices can be judged on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import IdMap, Interactions, ItemLists
from peel_ext.data.splits import carve
from peel_ext.ops import gathered_score
from peel_ext.train.placement import ranking_device, to_array


def hold_out(
    lists: ItemLists, num_items: int, share: float, seed: int
) -> tuple[ItemLists, ItemLists]:
    """Splits each user's items at random, by the rule of :func:`peel_ext.data.split_random`.

    Args:
        lists: distinct items of each user.
        num_items: number of items.
        share: share of each user's items to hold out.
        seed: seeds the draw.

    Returns:
        What is left and what is held out, each over all users.
    """
    left, held_out = TrainingData(lists, num_items).hold_out("random", share, seed)
    return left.lists, held_out


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Interactions to learn from, and all that is known of each.

    Attributes:
        lists: distinct items of each user.
        num_items: number of items.
        weights: float64 [num_interactions], how much each counts, or None: all alike.
        timestamps: float64 [num_interactions], or None where there are none.
    """

    lists: ItemLists
    num_items: int
    weights: NDArray[np.float64] | None = None
    timestamps: NDArray[np.float64] | None = None

    def hold_out(self, method: str, share: float, seed: int) -> tuple[TrainingData, ItemLists]:
        """Splits off a share of the interactions.

        Args:
            method: that of :class:`peel_ext.config.SplitConfig`; where no time is later than another, and
                without timestamps, interactions are drawn at random.
            share: share of the interactions to hold out.
            seed: seeds the draw.
        """
        whole = Interactions(
            self.lists.owners(), self.lists.items, self.timestamps,
            IdMap(np.arange(len(self.lists))), IdMap(np.arange(self.num_items)), self.weights,
        )  # fmt: skip
        times = self.timestamps
        ordered = times is not None and len(times) > 0 and bool((times != times[0]).any())
        left, held_out = carve(whole, method if ordered else "random", share, seed)
        kept = TrainingData(left.csr(), self.num_items, left.csr_weights(), left.csr_timestamps())
        return kept, held_out.csr()


def draw_users(users: NDArray[np.int64], max_users: int, seed: int) -> NDArray[np.int64]:
    """At most that many of some users, ascending."""
    if len(users) > max_users:
        users = np.random.default_rng(seed).choice(users, max_users, replace=False)
    return np.sort(users)


def rank_unseen(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    seen: ItemLists,
    depth: int,
    device: str = "cpu",
) -> NDArray[np.int64]:
    """The best items each user has not seen.

    Args:
        user_vectors: [num_users, dim].
        item_vectors: [num_items, dim].
        seen: items not to return.
        depth: length of the lists, where there are so many items.
        device: the device that ranks; where there are no kernels for it, the CPU does.

    Returns:
        int64 [num_users, min(depth, num_items)], best first, -1 for none.
    """
    users, items, indptr, exclude = (
        torch.from_numpy(array).to(ranking_device(device))
        for array in (user_vectors, item_vectors, seen.indptr, seen.items)
    )
    indices, _ = gathered_score(
        users, items, min(depth, len(item_vectors)), exclude_indptr=indptr, exclude=exclude
    )
    return to_array(indices)
