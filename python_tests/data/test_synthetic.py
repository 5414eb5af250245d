from __future__ import annotations

import numpy as np
import pytest

from peel_ext.data import Interactions, SyntheticConfig, make_interactions


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
    data = make_interactions(SyntheticConfig(1000, 1000, 30, drift=0))
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
    data = make_interactions(SyntheticConfig(3000, 300, 30, drift=drift))
    early, late = (
        np.bincount(data.item_rows[part], minlength=300)
        for part in (data.timestamps < 0.2, data.timestamps > 0.8)
    )
    assert low < np.corrcoef(early, late)[0, 1] < high
