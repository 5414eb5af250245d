from __future__ import annotations

import math

import numpy as np
import pytest

from peel_ext.metrics import rank_quality


def plain(lists: list[list[int]], targets: list[set[int]]) -> tuple[float, float]:
    """The definitions, one user at a time."""
    recalls, ndcgs = [], []
    for returned, wanted in zip(lists, targets, strict=True):
        if not wanted:
            continue
        gains = [1 / math.log2(rank + 2) for rank, item in enumerate(returned) if item in wanted]
        best = [1 / math.log2(rank + 2) for rank in range(min(len(returned), len(wanted)))]
        recalls.append(len(gains) / len(wanted))
        ndcgs.append(sum(gains) / sum(best))
    return float(np.mean(recalls)), float(np.mean(ndcgs))


@pytest.mark.parametrize("n", [1, 5, 20])
def test_equals_the_plain_definitions(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = np.array([rng.permutation(30)[:n] for _ in range(50)])
    for user in range(50):  # some lists are short
        lists[user, n - rng.integers(n + 1) :] = -1
    targets = [set(rng.permutation(30)[: rng.integers(8)].tolist()) for _ in range(50)]
    indptr = np.cumsum([0, *map(len, targets)])
    flat = np.array([item for wanted in targets for item in wanted], dtype=np.int64)
    quality = rank_quality(lists, indptr, flat)
    recall, ndcg = plain(lists.tolist(), targets)
    assert quality.recall == pytest.approx(recall, rel=1e-12)
    assert quality.ndcg == pytest.approx(ndcg, rel=1e-12)
    assert quality.num_users == sum(bool(wanted) for wanted in targets)


def test_a_perfect_and_a_useless_list() -> None:
    indptr, targets = np.array([0, 2]), np.array([4, 9])
    perfect = rank_quality(np.array([[9, 4, 1]]), indptr, targets)
    assert (perfect.recall, perfect.ndcg) == (1, 1)
    useless = rank_quality(np.array([[1, 2, -1]]), indptr, targets)
    assert (useless.recall, useless.ndcg) == (0, 0)


def test_nobody_has_targets() -> None:
    quality = rank_quality(np.array([[1]]), np.array([0, 0]), np.zeros(0, np.int64))
    assert math.isnan(quality.recall)
    assert quality.num_users == 0
    empty = rank_quality(np.zeros((0, 5), np.int64), np.array([0]), np.zeros(0, np.int64))
    assert empty.num_users == 0


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"indptr must have shape \(2,\), got \(3,\)"):
        rank_quality(np.array([[1]]), np.array([0, 0, 0]), np.zeros(0, np.int64))
