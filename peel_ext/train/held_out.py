"""Interactions kept back from a stage so that its choices can be judged on them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.data import IdMap, Interactions, split_random
from peel_ext.metrics import RankingQuality, rank_quality
from peel_ext.ops import gathered_score
from peel_ext.train.lists import Lists


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
    left, held, _ = hold_out_weighted((indptr, item_rows), num_items, share, seed, None)
    return left, held


def hold_out_weighted(
    lists: Lists,
    num_items: int,
    share: float,
    seed: int,
    weights: NDArray[np.float64] | None,
) -> tuple[Lists, Lists, NDArray[np.float64] | None]:
    """:func:`hold_out` of interactions with weights [num_interactions], and those of what is left."""
    num_users = len(lists[0]) - 1
    owners = np.repeat(np.arange(num_users), np.diff(lists[0]))
    whole = Interactions(
        owners, lists[1], None, IdMap(np.arange(num_users)), IdMap(np.arange(num_items)), weights
    )
    left, held = split_random(whole, test_share=share, seed=seed)
    return left.csr(), held.csr(), left.csr_weights()


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
) -> NDArray[np.int64]:
    """The best items each user has not seen, int64 [num_users, min(depth, num_items)]; -1 for none."""
    indices, _ = gathered_score(
        torch.from_numpy(user_vectors),
        torch.from_numpy(item_vectors),
        min(depth, len(item_vectors)),
        exclude_indptr=torch.from_numpy(seen[0]),
        exclude=torch.from_numpy(seen[1]),
    )
    return np.asarray(indices.numpy())
