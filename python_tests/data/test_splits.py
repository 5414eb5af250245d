from __future__ import annotations

import numpy as np
import pytest

from peel_ext.data import IdMap, Interactions, SyntheticConfig, make_interactions, split_random


def pairs(data: Interactions) -> set[tuple[int, int]]:
    return set(zip(data.user_rows.tolist(), data.item_rows.tolist(), strict=True))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_every_pair_is_on_one_side_in_the_promised_number(share: float, seed: int) -> None:
    data = make_interactions(SyntheticConfig(num_users=60, num_items=80, mean_interactions=9))
    train, test = split_random(data, test_share=share, seed=seed)
    assert pairs(train) | pairs(test) == pairs(data)
    assert not pairs(train) & pairs(test)
    for user in range(60):
        count = int((data.user_rows == user).sum())
        wanted = max(round(share * count), 1 if count >= 5 else 0)
        assert int((test.user_rows == user).sum()) == min(wanted, count - 1)


def test_users_of_few_items_keep_one_to_train_on() -> None:
    users = np.array([0, 1, 1, 2, 2, 2, 2], np.int64)
    items = np.array([0, 0, 1, 0, 0, 1, 2], np.int64)
    data = Interactions(users, items, None, IdMap(np.arange(3)), IdMap(np.arange(3)))
    train, test = split_random(data, test_share=0.99, seed=0)
    # User 2 has the pair with item 0 twice; it counts once.
    assert np.bincount(train.user_rows).tolist() == [1, 1, 1]
    assert np.bincount(test.user_rows, minlength=3).tolist() == [0, 1, 2]


def test_a_seed_decides() -> None:
    data = make_interactions(SyntheticConfig(num_users=50, num_items=60))
    first, again, other = (split_random(data, test_share=0.2, seed=seed)[1] for seed in (1, 1, 2))
    assert pairs(first) == pairs(again) != pairs(other)


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match=f"test_share must lie between 0 and 1, got {share}"):
        split_random(make_interactions(), test_share=share, seed=0)


def test_synthetic_interactions_are_distinct_and_in_size() -> None:
    config = SyntheticConfig(num_users=30, num_items=40, mean_interactions=8, seed=5)
    data = make_interactions(config)
    assert (data.num_users, data.num_items) == (30, 40)
    assert len(pairs(data)) == len(data)
    assert np.bincount(data.user_rows, minlength=30).min() >= 5
    assert pairs(data) == pairs(make_interactions(config))
    assert pairs(data) != pairs(make_interactions(SyntheticConfig(30, 40, 8, seed=6)))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 50, 4)])
def test_tiny_synthetic_data(shape: tuple[int, int, int, int]) -> None:
    data = make_interactions(SyntheticConfig(*shape))
    assert len(pairs(data)) == len(data) > 0


def test_synthetic_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="num_tastes must be at least 1, got 0"):
        SyntheticConfig(num_tastes=0)
