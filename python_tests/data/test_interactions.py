from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from peel_ext.data import IdMap, Interactions
from peel_ext.errors import DataError


def make(users: list[int], items: list[int], num_users: int, num_items: int) -> Interactions:
    return Interactions(
        np.array(users, np.int64),
        np.array(items, np.int64),
        None,
        IdMap(np.arange(num_users)),
        IdMap(np.arange(num_items)),
    )


@pytest.mark.parametrize(
    "values",
    [
        [5, -3, 5, 7],
        ["b", "a", "b", "\u00e9", "a longer one"],
        np.array([3, 1, 3], np.int32),
        np.array([250, 1], np.uint8),
        [],
        ["007", "7"],
    ],
)
def test_ids_go_to_rows_and_back(values) -> None:
    id_map, rows = IdMap.from_values(values)
    expected = list(values) if isinstance(values, list) else values.tolist()
    assert id_map.to_ids(rows) == expected
    assert len(id_map) == len(set(expected))
    assert np.array_equal(id_map.to_rows(expected), rows)
    assert id_map.to_ids(np.arange(len(id_map))) == sorted(set(expected))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "a"], "all integers or all strings, got int, str"),
        ([1.5], "got float"),
        ([True], "got bool"),
        ([1 << 63], "fit in 64 bits"),
        (np.array([1 << 63], np.uint64), "below 2"),
    ],
)
def test_values_that_are_no_ids(values, message: str) -> None:
    with pytest.raises(DataError, match=message):
        IdMap.from_values(values)


def test_unknown_ids_are_named() -> None:
    integers, _ = IdMap.from_values([2, 4])
    with pytest.raises(DataError, match="id 3 is not known"):
        integers.to_rows([2, 3])
    with pytest.raises(DataError, match="id 5 is not known"):
        integers.to_rows([5])
    with pytest.raises(DataError, match=r"id '2' is not known: ids are integers"):
        integers.to_rows(["2"])
    strings, _ = IdMap.from_values(["b"])
    with pytest.raises(DataError, match="id 'z' is not known"):
        strings.to_rows(["b", "z"])
    with pytest.raises(DataError, match="ids are strings"):
        strings.to_rows([1])


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_copies_are_the_same(again) -> None:
    users, user_rows = IdMap.from_values(["b", "a", "b", "a longer one"])
    items, item_rows = IdMap.from_values([7, -2, 7, 5])
    made = Interactions(user_rows, item_rows, np.array([4.0, 2.0, 1.0, 3.0]), users, items)
    twin = again(made)
    assert np.array_equal(twin.timestamps, made.timestamps)
    assert twin.users.to_ids(twin.user_rows) == ["b", "a", "b", "a longer one"]
    assert twin.items.to_ids(twin.item_rows) == [7, -2, 7, 5]
    assert again(users).to_rows(["b"]).tolist() == [2]
    assert again(items).to_rows([5]).tolist() == [1]


def test_csr_holds_each_users_distinct_items_ascending() -> None:
    lists = make([2, 0, 2, 2, 0], [3, 1, 0, 3, 4], 4, 5).csr()
    assert [own.tolist() for own in lists] == [[1, 4], [], [0, 3], []]


def test_csr_of_nothing() -> None:
    assert [own.tolist() for own in make([], [], 3, 0).csr()] == [[], [], []]


def test_deduplication_keeps_the_first_in_order() -> None:
    made = make([1, 0, 1, 1], [2, 2, 0, 2], 2, 3)
    timed = Interactions(
        made.user_rows, made.item_rows, np.array([5.0, 1.0, 2.0, 0.0]), made.users, made.items
    )
    left = timed.deduplicated()
    assert left.user_rows.tolist() == [1, 0, 1]
    assert left.item_rows.tolist() == [2, 2, 0]
    assert left.timestamps is not None
    assert left.timestamps.tolist() == [5.0, 1.0, 2.0]


def test_rows_outside_their_map_are_refused() -> None:
    with pytest.raises(ValueError, match=r"user_rows must lie in \[0, 2\), got 0 to 2"):
        make([0, 2], [0, 0], 2, 1)
    with pytest.raises(ValueError, match=r"item_rows must lie in \[0, 1\), got -1 to -1"):
        make([0], [-1], 2, 1)
    with pytest.raises(ValueError, match="same length"):
        make([0, 1], [0], 2, 1)


@pytest.mark.parametrize("values", [np.array([1.5]), np.array([True]), np.array(["a", 1], object)])
def test_arrays_that_are_no_ids(values) -> None:
    with pytest.raises(DataError, match="ids must be all integers or all strings, got"):
        IdMap.from_values(values)


def test_wide_unsigned_ids_are_found() -> None:
    ids = np.array([1, (1 << 60) + 1, (1 << 60) + 3], np.uint64)
    known, rows = IdMap.from_values(ids)
    assert rows.tolist() == known.to_rows(ids).tolist() == [0, 1, 2]
