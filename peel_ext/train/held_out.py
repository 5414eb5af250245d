"""Interactions kept back from a stage so that its choices can be judged on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import IdMap, Interactions
from peel_ext.data.splits import carve
from peel_ext.metrics import RankingQuality, rank_quality
from peel_ext.ops import gathered_score
from peel_ext.train.lists import Lists
from peel_ext.train.placement import ranking_device, to_array


def hold_out(
    indptr: NDArray[np.int64], item_rows: NDArray[np.int64], num_items: int, share: float, seed: int
) -> tuple[Lists, Lists]:
    """Splits each user's items at random, by the rule of :func:`peel_ext.data.split_random`.

    Args:
        indptr: [num_users + 1], interactions in CSR form.
        item_rows: [num_interactions].
        num_items: number of items.
        share: of each user's items to hold out.
        seed: of the draw.

    Returns:
        What is left and what is held out, each in CSR form over all users.
    """
    whole = TrainingData((indptr, item_rows), num_items)
    left, held = whole.hold_out("random", share, seed)
    return left.lists, held


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Interactions to learn from, and all that is known of each.

    Attributes:
        lists: in CSR form, distinct for each user.
        num_items: number of items.
        weights: how much each counts float64 [num_interactions], or None: all alike.
        timestamps: float64 [num_interactions], or None where there are none.
    """

    lists: Lists
    num_items: int
    weights: NDArray[np.float64] | None = None
    timestamps: NDArray[np.float64] | None = None

    def hold_out(self, method: str, share: float, seed: int) -> tuple[TrainingData, Lists]:
        """What is left, and what is held out in CSR form over the same users.

        Args:
            method: of :class:`peel_ext.config.SplitConfig`; where no time is later than another, and
                without timestamps, interactions are drawn at random.
            share: to hold out.
            seed: of the draw.
        """
        indptr, items = self.lists
        num_users = len(indptr) - 1
        whole = Interactions(
            np.repeat(np.arange(num_users), np.diff(indptr)), items, self.timestamps,
            IdMap(np.arange(num_users)), IdMap(np.arange(self.num_items)), self.weights,
        )  # fmt: skip
        times = self.timestamps
        ordered = times is not None and len(times) > 0 and bool((times != times[0]).any())
        left, held = carve(whole, method if ordered else "random", share, seed)
        kept = TrainingData(left.csr(), self.num_items, left.csr_weights(), left.csr_timestamps())
        return kept, held.csr()


def draw_users(lists: Lists, max_users: int, seed: int) -> NDArray[np.int64]:
    """At most that many users with something in their list, ascending."""
    users = np.flatnonzero(np.diff(lists[0]))
    if len(users) > max_users:
        users = np.random.default_rng(seed).choice(users, max_users, replace=False)
    return np.sort(users)


def measure(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    seen: Lists,
    targets: Lists,
    n: int,
) -> RankingQuality:
    """Quality of the n best unseen items of each user.

    Args:
        user_vectors: [num_users, dim].
        item_vectors: [num_items, dim].
        seen: items not to return, in CSR form.
        targets: items to find, in CSR form.
        n: length of the lists.
    """
    return rank_quality(rank_unseen(user_vectors, item_vectors, seen, n), *targets)


def rank_unseen(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    seen: Lists,
    depth: int,
    device: str = "cpu",
) -> NDArray[np.int64]:
    """The best items each user has not seen.

    Args:
        user_vectors: [num_users, dim].
        item_vectors: [num_items, dim].
        seen: items not to return, in CSR form.
        depth: length of the lists, where there are so many items.
        device: where to rank; where there are no kernels for it, the CPU does.

    Returns:
        int64 [num_users, min(depth, num_items)], best first, -1 for none.
    """
    users, items, indptr, exclude = (
        torch.from_numpy(array).to(ranking_device(device))
        for array in (user_vectors, item_vectors, *seen)
    )
    indices, _ = gathered_score(
        users, items, min(depth, len(item_vectors)), exclude_indptr=indptr, exclude=exclude
    )
    return to_array(indices)
