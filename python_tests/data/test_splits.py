from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from peel_ext.config import SplitConfig
from peel_ext.data import (
    IdMap,
    Interactions,
    SyntheticConfig,
    core_rows,
    make_interactions,
    split_interactions,
    split_last,
    split_random,
    split_time,
    split_users,
)
from peel_ext.errors import DataError

SHOP = SyntheticConfig(num_users=60, num_items=80, mean_interactions=9)


def pairs(data: Interactions) -> set[tuple[int | str, int | str]]:
    """By id, since parts may have maps of their own."""
    users, items = data.users.to_ids(data.user_rows), data.items.to_ids(data.item_rows)
    return set(zip(users, items, strict=True))


def make(users: list[int], items: list[int], times: list[float] | None = None) -> Interactions:
    return Interactions(
        np.array(users, np.int64),
        np.array(items, np.int64),
        None if times is None else np.array(times),
        IdMap(np.arange(max(users, default=-1) + 1)),
        IdMap(np.arange(max(items, default=-1) + 1)),
    )


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_every_pair_is_on_one_side_in_the_promised_number(share: float, seed: int) -> None:
    data = make_interactions(SHOP)
    train, test = split_random(data, test_share=share, seed=seed)
    assert pairs(train) | pairs(test) == pairs(data)
    assert not pairs(train) & pairs(test)
    for user in range(60):
        count = int((data.user_rows == user).sum())
        wanted = max(round(share * count), 1 if count >= 5 else 0)
        assert int((test.user_rows == user).sum()) == min(wanted, count - 1)


def test_users_of_few_items_keep_one_to_train_on() -> None:
    data = make([0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 0, 0, 1, 2])
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
    data = make_interactions(SHOP)
    for split in (split_last, split_time):
        with pytest.raises(ValueError, match=f"test_share must lie between 0 and 1, got {share}"):
            split(data, test_share=share)
    with pytest.raises(ValueError, match=f"test_share must lie between 0 and 1, got {share}"):
        split_random(data, test_share=share, seed=0)
    with pytest.raises(ValueError, match=f"share must lie between 0 and 1, got {share}"):
        split_users(data, share=share, seed=0)


@pytest.mark.parametrize("share", [1e-9, 0.2, 0.5])
def test_the_last_of_each_user(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = make_interactions(SHOP)
    order = rng.permutation(len(made))  # the data need not come in the order of time
    train, test = split_last(made.select(order), test_share=share)
    assert pairs(train) | pairs(test) == pairs(made)
    for user in range(60):
        count = int((made.user_rows == user).sum())
        left_out = test.select(test.user_rows == user)
        assert len(left_out) == min(max(round(share * count), 1), count - 1)
        before = train.select(train.user_rows == user)
        assert before.timestamps.max() < left_out.timestamps.min()


def test_of_equal_times_the_later_in_the_data_is_the_last() -> None:
    train, test = split_last(make([0, 0, 0, 1], [4, 2, 3, 0], [1, 1, 0, 5]), test_share=0.01)
    assert pairs(test) == {(0, 2)}
    assert pairs(train) == {(0, 4), (0, 3), (1, 0)}


def test_one_moment_for_everybody(seed: int) -> None:
    made = make_interactions(SHOP)
    order = np.random.default_rng(seed).permutation(len(made))
    train, test = split_time(made.select(order), test_share=0.25)
    assert pairs(train) | pairs(test) == pairs(made)
    assert train.timestamps.max() < test.timestamps.min()
    assert len(test) == pytest.approx(0.25 * len(made), abs=2)


def test_equal_times_stay_on_one_side() -> None:
    data = make([0, 1, 2, 3], [0, 0, 0, 0], [1, 2, 2, 2])
    train, test = split_time(data, test_share=0.1)
    assert (len(train), len(test)) == (1, 3)
    train, test = split_time(make([0, 1, 2, 3], [0, 0, 0, 0], [1, 1, 1, 2]), test_share=0.9)
    assert (len(train), len(test)) == (3, 1)
    with pytest.raises(DataError, match="all have the same timestamp"):
        split_time(make([0, 1], [0, 0], [7, 7]), test_share=0.5)


@pytest.mark.parametrize("times", [[-1e300, 1e300, 0], [-3, -2, -1]])
def test_absurd_times_are_still_an_order(times: list[float]) -> None:
    train, test = split_time(make([0, 1, 2], [0, 1, 2], times), test_share=0.3)
    assert test.timestamps.tolist() == [max(times)]
    assert len(train) == 2


def test_a_split_by_time_needs_times() -> None:
    for split in (split_last, split_time):
        with pytest.raises(DataError, match="needs timestamps, and these interactions have none"):
            split(make([0, 0], [0, 1]), test_share=0.5)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_users_are_on_one_side(share: float, seed: int) -> None:
    data = make_interactions(SHOP)
    known, new = split_users(data, share=share, seed=seed)
    assert pairs(known) | pairs(new) == pairs(data)
    assert not set(known.user_rows) & set(new.user_rows)
    assert len(set(new.user_rows)) == min(max(round(share * 60), 1), 59)
    assert pairs(new) == pairs(split_users(data, share=share, seed=seed)[1])


def test_one_user_cannot_be_split() -> None:
    with pytest.raises(DataError, match="users cannot be held out of 1: expected at least 2 users"):
        split_users(make([0, 0], [0, 1]), share=0.5, seed=0)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 100])
def test_the_core_equals_a_plain_one(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = make(rng.integers(30, size=200).tolist(), rng.integers(25, size=200).tolist())
    left = pairs(data)
    while True:
        users = [user for user, _ in left]
        items = [item for _, item in left]
        stay = {(u, i) for u, i in left if users.count(u) >= k and items.count(i) >= k}
        if stay == left:
            break
        left = stay
    users, items = core_rows(data, k)
    core = data.restrict(users, items)
    assert pairs(core) == left
    assert core.num_users == len({user for user, _ in left})
    assert core.num_items == len({item for _, item in left})


def test_a_core_of_less_than_one() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        core_rows(make([0], [0]), 0)


def test_restricting_renumbers_and_keeps_ids() -> None:
    data = make([0, 1, 2, 2], [3, 1, 3, 0], [5, 6, 7, 8])
    part = data.restrict(np.array([0, 2]), np.array([0, 3]))
    assert part.user_rows.tolist() == [0, 1, 1]
    assert part.item_rows.tolist() == [1, 1, 0]
    assert part.timestamps.tolist() == [5, 7, 8]
    assert (part.users.ids.tolist(), part.items.ids.tolist()) == ([0, 2], [0, 3])
    assert pairs(data.restrict()) == pairs(data)


@pytest.mark.parametrize("method", ["random", "last", "time"])
@pytest.mark.parametrize("target", ["test", "validation"])
def test_a_run_never_trains_on_what_it_is_measured_on(method: str, target: str, seed: int) -> None:
    data = make_interactions(SHOP)
    config = SplitConfig(method=method, target=target, new_user_share=0.2, seed=seed)
    split = split_interactions(data, None, config)
    parts = [split.train, split.target, split.history, split.history_target]
    for at, part in enumerate(parts):
        assert pairs(part) <= pairs(data)
        for other in parts[at + 1 :]:
            assert not pairs(part) & pairs(other)
    known, new = set(split.train.users.ids), set(split.history.users.ids)
    assert not known & new
    assert known == {user for user, _ in pairs(split.train)}
    assert new == {user for user, _ in pairs(split.history)}
    assert split.target.users is split.train.users or np.array_equal(
        split.target.users.ids, split.train.users.ids
    )
    assert split.method == method
    # A history comes by user, and within one in the order of time.
    keys = list(zip(split.history.user_rows, split.history.timestamps, strict=True))
    assert keys == sorted(keys)


def test_validation_looks_at_neither_test_interactions_nor_test_users(seed: int) -> None:
    data = make_interactions(SHOP)
    outer = split_interactions(data, None, SplitConfig(new_user_share=0.2, seed=seed))
    config = SplitConfig(new_user_share=0.2, seed=seed, target="validation")
    inner = split_interactions(data, None, config)
    seen = set().union(*(pairs(part) for part in (inner.train, inner.target)))
    seen |= pairs(inner.history) | pairs(inner.history_target)
    assert seen <= pairs(outer.train)
    assert not {user for user, _ in seen} & set(outer.history.users.ids)


def test_a_given_test_part_is_taken_as_it_is() -> None:
    every = make([0, 0, 1, 1, 2, 1, 2], [0, 1, 0, 1, 1, 2, 0])
    train, test = every.select(np.arange(5)), every.select(np.arange(5, 7))
    split = split_interactions(train, test, SplitConfig(method="time"))
    assert split.method == "given"
    assert (pairs(split.train), pairs(split.target)) == (pairs(train), {(1, 2), (2, 0)})
    core = split_interactions(train, test, SplitConfig(k_core=2))
    assert pairs(core.train) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert (core.train.num_users, core.train.num_items, len(core.target)) == (2, 2, 0)


def test_interactions_of_users_without_others_are_counted() -> None:
    every = make([0, 0, 1, 1, 2, 1, 2, 3], [0, 1, 0, 1, 1, 2, 0, 0])
    train, test = every.select(np.arange(4)), every.select(np.arange(4, 8))
    split = split_interactions(train, test, SplitConfig())
    assert pairs(split.target) == {(1, 2)}
    assert split.num_left_out == 3
    assert split_interactions(every, None, SplitConfig()).num_left_out == 0


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_interactions_repeated_in_a_given_test_part_are_no_targets(share: float) -> None:
    every = make([0, 0, 1, 1, 2, 0, 1, 1, 2, 2], [0, 1, 0, 1, 1, 1, 0, 2, 0, 1])
    train, test = every.select(np.arange(5)), every.select(np.arange(5, 10))
    split = split_interactions(train, test, SplitConfig(new_user_share=share))
    assert pairs(split.target) | pairs(split.history_target) == {(1, 2), (2, 0)}
    assert split.num_left_out == 3
    assert pairs(test.without(test)) == set()
    assert pairs(test.without(train.select(np.arange(0)))) == pairs(test)


def test_a_history_without_times_is_in_random_but_settled_order() -> None:
    data = make(np.repeat(np.arange(4), 30).tolist(), np.tile(np.arange(30), 4).tolist())
    config = SplitConfig(new_user_share=0.5, test_share=0.1, seed=1)
    first, again = (split_interactions(data, None, config).history for _ in range(2))
    assert np.array_equal(first.item_rows, again.item_rows)
    own = first.item_rows[first.user_rows == 0]
    assert own.tolist() != sorted(own)


def test_nothing_left_to_train_on() -> None:
    with pytest.raises(DataError, match="no interactions to train on in the 9-core"):
        split_interactions(make([0, 1], [0, 0]), None, SplitConfig(k_core=9))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "first"}, "method must be one of random, last, time, got 'first'"),
        ({"target": "train"}, "target must be one of test, validation, got 'train'"),
        ({"test_share": 1.0}, r"test_share must lie in \[0, 1\), got 1.0"),
        ({"validation_share": 0}, "validation_share must lie between 0 and 1, got 0"),
        ({"new_user_share": 1.0}, r"new_user_share must lie in \[0, 1\), got 1.0"),
        ({"k_core": -1}, "k_core must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0 and below .*, got -1"),
    ],
)
def test_settings_out_of_range(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitConfig(**setting)


def test_settings_are_never_chosen_on_what_is_measured() -> None:
    users, items = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    whole = Interactions(users, items, None, IdMap(np.arange(4)), IdMap(np.arange(5)))
    test = replace(whole, user_rows=np.arange(4), item_rows=np.full(4, 3))
    both = Interactions.joined([test, replace(test, item_rows=np.full(4, 4))])
    split = split_interactions(whole, test, SplitConfig(), validation=both)
    assert split.validation is not None
    assert set(split.validation.item_rows.tolist()) == {4}
    assert set(split.target.item_rows.tolist()) == {3}
    # One that says nothing new leaves the choice to what is held out of training.
    assert split_interactions(whole, test, SplitConfig(), validation=test).validation is None
