"""Ranking metrics under full ranking, and what the difference between two of them is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Upper limit of the weights that one step of the bootstrap draws.
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class RankingQuality:
    """Means over users.

    Attributes:
        recall: share of a user's target items among the n returned.
        ndcg: discounted cumulative gain of the n returned over the best possible one.
        hit_rate: share of users with at least one target item among the n returned.
        mrr: mean of 1 / rank of the first target item, 0 where none is returned.
        num_users: users averaged over.
    """

    recall: float
    ndcg: float
    hit_rate: float
    mrr: float
    num_users: int


@dataclass(frozen=True, eq=False)
class UserQuality:
    """The metrics of every user who has something to find; all arrays [m], in ascending user.

    Attributes:
        users: int64, positions among the lists.
        recall: float64; see :class:`RankingQuality`.
        ndcg: float64.
        hit_rate: float64, 0 or 1.
        mrr: float64.
    """

    users: NDArray[np.int64]
    recall: NDArray[np.float64]
    ndcg: NDArray[np.float64]
    hit_rate: NDArray[np.float64]
    mrr: NDArray[np.float64]

    def mean(self) -> RankingQuality:
        """Means over the users; NaN when there are none."""
        if len(self.users) == 0:
            nothing = float("nan")
            return RankingQuality(nothing, nothing, nothing, nothing, 0)
        return RankingQuality(
            recall=float(self.recall.mean()),
            ndcg=float(self.ndcg.mean()),
            hit_rate=float(self.hit_rate.mean()),
            mrr=float(self.mrr.mean()),
            num_users=len(self.users),
        )


def measure_users(
    indices: NDArray[np.int64],
    indptr: NDArray[np.int64],
    targets: NDArray[np.int64],
    n: int | None = None,
) -> UserQuality:
    """Recall, NDCG, hit rate and reciprocal rank of each user, with binary relevance.

    Recall divides by all of a user's targets. NDCG is the standard one (Jarvelin and Kekalainen,
    2002): gains 1 / log2(rank + 1), ideal over min(n, number of targets). Users without targets are
    left out.

    Args:
        indices: [num_users, n or more], the items returned, best first; -1 for none.
        indptr: [num_users + 1].
        targets: user u's items ``targets[indptr[u] : indptr[u + 1]]``, distinct.
        n: how many of the items returned count, by default all.

    Raises:
        ValueError: shapes that do not fit, or n out of range.
    """
    num_users, length = indices.shape
    if n is None:
        n = length
    if not 0 <= n <= length:
        raise ValueError(f"n must lie between 0 and the {length} items returned, got {n}")
    if indptr.shape != (num_users + 1,):
        raise ValueError(f"indptr must have shape ({num_users + 1},), got {indptr.shape}")
    counts = np.diff(indptr)
    users = np.flatnonzero(counts)
    counts = counts[users]
    hits = _hits(indices[users, :n], np.repeat(np.arange(len(users)), counts), targets)
    discounts = 1 / np.log2(np.arange(n) + 2)
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(counts, n)]
    found = np.asarray(hits.any(axis=1))
    first = np.where(found, hits.argmax(axis=1) if n else 0, 0) + 1.0
    return UserQuality(
        users=users,
        recall=hits.sum(axis=1) / counts,
        ndcg=np.divide(hits @ discounts, ideal, out=np.zeros(len(users)), where=ideal > 0),
        hit_rate=np.asarray(found, dtype=np.float64),
        mrr=found / first,
    )


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of the 95% interval of the mean of a metric over users, by the normal approximation.

    It tells of other users drawn alike, not of other trainings. Two methods on the same users are
    compared by :func:`paired_bootstrap`.

    Args:
        values: [m], of every user.

    Raises:
        ValueError: fewer than two users.
    """
    if len(values) < 2:
        raise ValueError(f"values must have at least 2 users, got {len(values)}")
    mean = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean - half, mean + half


def _hits(
    indices: NDArray[np.int64], owners: NDArray[np.int64], targets: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of the items returned [num_users, n] are among the owner's targets [m]."""
    span = int(max(indices.max(initial=0), targets.max(initial=0))) + 1
    wanted = np.sort(owners * span + targets)
    offered = np.arange(len(indices))[:, None] * span + indices  # [num_users, n]
    at = np.searchsorted(wanted, offered)
    return np.asarray((indices >= 0) & (np.append(wanted, -1)[at] == offered))


def rank_quality(
    indices: NDArray[np.int64],
    indptr: NDArray[np.int64],
    targets: NDArray[np.int64],
    n: int | None = None,
) -> RankingQuality:
    """The means of :func:`measure_users`, whose arguments and errors it has."""
    return measure_users(indices, indptr, targets, n).mean()


@dataclass(frozen=True)
class Difference:
    """The mean difference between two methods on the same users, and where it may lie.

    Attributes:
        mean: the mean of the first minus the second.
        low: lower end of the interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float


def paired_bootstrap(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    level: float = 0.95,
    num_samples: int = 2000,
    seed: int = 0,
) -> Difference:
    """The percentile bootstrap interval of the mean difference (Efron and Tibshirani, 1993, ch. 13).

    Users are drawn with replacement, each with both of its values, so what makes a user easy or hard
    for both methods cancels.

    Args:
        first: [m], a metric of every user under one method.
        second: [m], of the same users in the same order under another.
        level: confidence of the interval, in (0, 1).
        num_samples: bootstrap samples.
        seed: seeds the draws.

    Raises:
        ValueError: no users, different shapes, or a level or number out of range.
    """
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise ValueError(
            "first and second must be vectors of the same, not zero, length, got shapes "
            f"{first.shape} and {second.shape}"
        )
    differences = np.asarray(first - second, dtype=np.float64)[:, None]
    return bootstrap_means(differences, level=level, num_samples=num_samples, seed=seed)[0]


def bootstrap_means(
    values: NDArray[np.float64],
    *,
    level: float = 0.95,
    num_samples: int = 2000,
    seed: int = 0,
) -> list[Difference]:
    """The same of the means of several columns, with the same users drawn for all of them.

    Args:
        values: [m, k], m at least 1: k differences of every user.
        level: confidence of the interval, in (0, 1).
        num_samples: bootstrap samples.
        seed: seeds the draws.

    Raises:
        ValueError: no users, or a level or number out of range.
    """
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"values must be a matrix of at least one row, got shape {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    rng = np.random.default_rng(seed)
    size = len(values)
    step = max(1, _CHUNK_VALUES // size)
    means = []
    for start in range(0, num_samples, step):
        drawn = rng.integers(size, size=(min(step, num_samples - start), size))
        times = np.array([np.bincount(each, minlength=size) for each in drawn], dtype=np.float64)
        means.append(times @ values / size)
    ends = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [
        Difference(float(mean), float(low), float(high))
        for mean, low, high in zip(values.mean(axis=0), *ends, strict=True)
    ]
