from __future__ import annotations

import numpy as np
import pytest

from peel_ext.data import ItemLists


def draw(seed: int, num_users: int = 30, num_items: int = 12) -> list[list[int]]:
    """Lists of different items, some of them empty."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(num_items)[: rng.integers(0, 6)].tolist() for _ in range(num_users)]


def plain(lists: ItemLists) -> list[list[int]]:
    return [own.tolist() for own in lists]


def test_lists_come_back_as_they_were_given(seed: int) -> None:
    given = draw(seed)
    lists = ItemLists.from_lists(given)
    assert plain(lists) == given
    assert [lists[user].tolist() for user in range(len(lists))] == given
    assert lists.counts.tolist() == [len(own) for own in given]
    assert plain(ItemLists.from_counts(lists.counts, lists.items)) == given
    arrays = lists.to_arrays("some")
    assert sorted(arrays) == ["some_indptr", "some_items"]
    assert plain(ItemLists.from_arrays(arrays, "some")) == given
    assert plain(ItemLists.from_lists([])) == []
    assert plain(ItemLists.empty(2)) == [[], []]


def test_every_item_has_an_owner_and_a_place(seed: int) -> None:
    given = draw(seed)
    lists = ItemLists.from_lists(given)
    cells = [(user, place) for user, own in enumerate(given) for place in range(len(own))]
    assert list(zip(lists.owners().tolist(), lists.places().tolist(), strict=True)) == cells


def test_users_are_taken_in_the_order_asked_for_and_more_than_once(seed: int) -> None:
    given = draw(seed)
    users = np.array([7, 0, 29, 7])
    assert plain(ItemLists.from_lists(given).take(users)) == [given[user] for user in users]
    assert plain(ItemLists.from_lists(given).take(users[:0])) == []


def test_a_mask_leaves_items_out_and_all_users_in(seed: int) -> None:
    given = draw(seed)
    lists = ItemLists.from_lists(given)
    kept = lists.where(lists.items % 3 > 0)
    assert plain(kept) == [[item for item in own if item % 3] for own in given]


def test_merged_lists_are_sorted_unions(seed: int) -> None:
    parts = [draw(seed), draw(seed + 1), [[]] * 30]
    merged = ItemLists.merged([ItemLists.from_lists(part) for part in parts], 12)
    assert plain(merged) == [sorted({*a, *b, *c}) for a, b, c in zip(*parts, strict=True)]
    assert plain(ItemLists.merged([ItemLists.empty(2)], 0)) == [[], []]


@pytest.mark.parametrize(
    ("indptr", "items", "error", "message"),
    [
        ([1, 2], [0, 0], ValueError, r"rise from 0 to the 2 items, got \[1\] to \[2\]"),
        ([0, 1], [0, 0], ValueError, "rise from 0 to the 2 items"),
        ([0, 2, 1, 2], [0, 0], ValueError, "rise from 0"),
        ([], [], ValueError, "rise from 0"),
        ([[0, 1]], [0], ValueError, r"indptr must be a vector, got shape \(1, 2\)"),
        ([0, 1], [0.5], TypeError, "items must be int64, got float64"),
    ],
)
def test_arrays_that_are_no_lists_are_refused(indptr, items, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ItemLists(np.array(indptr, dtype=np.int64), np.array(items, dtype=type((items or [0])[0])))
