"""Ranking metrics under full ranking, averaged over the users who have something to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RankingQuality:
    """Means over users.

    Attributes:
        recall: share of a user's target items among the n returned.
        ndcg: discounted cumulative gain of the n returned over the best possible one.
        num_users: users averaged over.
    """

    recall: float
    ndcg: float
    num_users: int


def rank_quality(
    indices: NDArray[np.int64],
    indptr: NDArray[np.int64],
    targets: NDArray[np.int64],
) -> RankingQuality:
    """Recall@n and NDCG@n with binary relevance.

    Recall divides by all of a user's targets. NDCG is the standard one (Jarvelin and Kekalainen,
    2002): gains 1 / log2(rank + 1), ideal over min(n, number of targets). Users without targets are
    left out.

    Args:
        indices: [num_users, n], the items returned, best first; -1 for none.
        indptr: [num_users + 1].
        targets: user u's items ``targets[indptr[u] : indptr[u + 1]]``, distinct.

    Returns:
        The means; NaN when no user has targets.

    Raises:
        ValueError: shapes that do not fit.
    """
    num_users, n = indices.shape
    if indptr.shape != (num_users + 1,):
        raise ValueError(f"indptr must have shape ({num_users + 1},), got {indptr.shape}")
    counts = np.diff(indptr)
    span = int(max(indices.max(initial=0), targets.max(initial=0))) + 1
    owners = np.repeat(np.arange(num_users), counts)
    wanted = np.sort(owners * span + targets)
    offered = np.arange(num_users)[:, None] * span + indices  # [num_users, n]
    at = np.searchsorted(wanted, offered)
    hits = (indices >= 0) & (np.append(wanted, -1)[at] == offered)  # [num_users, n]
    discounts = 1 / np.log2(np.arange(n) + 2)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(counts, n)]
    has = counts > 0
    if not has.any():
        return RankingQuality(float("nan"), float("nan"), 0)
    recall = hits[has].sum(axis=1) / counts[has]
    ndcg = (hits[has] * discounts).sum(axis=1) / ideal[has]
    return RankingQuality(float(recall.mean()), float(ndcg.mean()), int(has.sum()))
