from __future__ import annotations

import numpy as np
import pytest

from peel_ext.data import Interactions, SyntheticConfig, make_interactions, split_random
from peel_ext.metrics import rank_quality


def pairs(data: Interactions) -> set[tuple[int, int]]:
    return set(zip(data.user_rows.tolist(), data.item_rows.tolist(), strict=True))


def test_interactions_are_distinct_in_size_and_in_the_order_of_time() -> None:
    config = SyntheticConfig(num_users=30, num_items=40, mean_interactions=8, seed=5)
    data = make_interactions(config)
    assert (data.num_users, data.num_items) == (30, 40)
    assert len(pairs(data)) == len(data)
    assert np.bincount(data.user_rows, minlength=30).min() >= 5
    assert (np.diff(data.timestamps) >= 0).all()
    assert 0 <= data.timestamps.min() < 0.1 < 0.9 < data.timestamps.max() < 1
    assert pairs(data) == pairs(make_interactions(config))
    assert pairs(data) != pairs(make_interactions(SyntheticConfig(30, 40, 8, seed=6)))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 50, 4), (2, 5, 3, 100), (1, 1000, 3, 2)])
def test_tiny_data(shape: tuple[int, int, int, int]) -> None:
    data = make_interactions(SyntheticConfig(*shape))
    assert len(pairs(data)) == len(data) > 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_tastes": 0}, "num_tastes must be at least 1, got 0"),
        ({"drift": 1.5}, r"drift must lie in \[0, 1\], got 1.5"),
    ],
)
def test_settings_are_checked(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**setting)


def test_popularity_is_long_tailed_and_tastes_matter() -> None:
    data = make_interactions(SyntheticConfig(1000, 1000, 30, num_tastes=10, drift=0))
    counts = np.sort(np.bincount(data.item_rows, minlength=1000))[::-1]
    assert 0.3 < counts[:100].sum() / counts.sum() < 0.7
    # Two halves of one user's items have more in common, by co-occurrence, than those of two users.
    table = np.zeros((1000, 1000), np.float32)
    table[data.user_rows, data.item_rows] = 1
    together = table.T @ table
    np.fill_diagonal(together, 0)
    together /= np.sqrt(np.outer(counts_of(table), counts_of(table))) + 1
    own = [row @ together @ row / row.sum() ** 2 for row in table]
    mixed = [table[u] @ together @ table[u - 1] / table[u].sum() / table[u - 1].sum()
             for u in range(1000)]  # fmt: skip
    assert np.mean(own) > 1.5 * np.mean(mixed)


def counts_of(table: np.ndarray) -> np.ndarray:
    return table.sum(axis=0)


@pytest.mark.parametrize(("drift", "low", "high"), [(0.0, 0.9, 1.01), (1.0, -0.7, 0.6)])
def test_drift_moves_popularity(drift: float, low: float, high: float) -> None:
    data = make_interactions(SyntheticConfig(3000, 300, 30, num_tastes=10, drift=drift))
    early, late = (
        np.bincount(data.item_rows[part], minlength=300)
        for part in (data.timestamps < 0.2, data.timestamps > 0.8)
    )
    assert low < np.corrcoef(early, late)[0, 1] < high


@pytest.mark.parametrize("seed", [0, 1])
def test_statistics_lie_within_the_range_of_real_data(seed: int) -> None:
    """Those of the table in the module's docstring that cost little; the ranges are in it."""
    data = make_interactions(SyntheticConfig(seed=seed))
    assert 0.435 < gini(np.bincount(data.item_rows, minlength=data.num_items)) < 0.629
    assert 0.303 < gini(np.bincount(data.user_rows, minlength=data.num_users)) < 0.472
    train, test = split_random(data, test_share=0.2, seed=0)
    seen = np.zeros((data.num_users, data.num_items), np.float32)
    seen[train.user_rows, train.item_rows] = 1
    scaled = seen / np.sqrt(np.maximum(counts_of(seen), 1))
    neighbours = seen @ (scaled.T @ scaled)  # cosines to a user's items
    popularity = np.tile(counts_of(seen), (data.num_users, 1))
    targets = test.csr()
    by_neighbours, by_popularity = (
        rank_quality(best_unseen(scores, seen), targets.indptr, targets.items).recall
        for scores in (neighbours, popularity)
    )
    assert 0.174 < by_popularity / by_neighbours < 0.575


def gini(counts: np.ndarray) -> float:
    differences = np.abs(counts[:, None] - counts)
    return differences.mean() / (2 * counts.mean())


def best_unseen(scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.argsort(np.where(seen > 0, np.inf, -scores), axis=1, kind="stable")[:, :20]
