"""A Personalized Elastic Embedding opened without torch."""

from __future__ import annotations

import numpy as np
import pytest

from peel_ext.device import PersonalizedElasticEmbedding, fold_in_mean
from peel_ext.format import (
    ColumnsLayout,
    EncodedRows,
    GroupTable,
    Layout,
    PlanesLayout,
    pack_embedding,
    pack_prefix,
    unpack_embedding,
)


def make(layout: Layout, seed: int, rows: int = 200, dim: int = 20) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, dim)).astype(np.float32)
    sizes = layout.item_group_sizes(rows)
    order = rng.permutation(rows) if isinstance(layout, PlanesLayout) else np.arange(rows)
    item_groups = [np.sort(ids) for ids in np.split(order, np.cumsum(sizes)[:-1])]
    everything = (1 << layout.num_layers(dim)) - 1
    held = [everything >> c % 3 if c % 4 else 0 for c in range(1, len(sizes) + 1)]
    return pack_embedding(layout, dim, EncodedRows(*layout.encode(weight)), item_groups, held)


LAYOUTS = [
    PlanesLayout(),
    ColumnsLayout(4),
    ColumnsLayout(6, "int8", 7),
    ColumnsLayout(3, "float16"),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_lookup_equals_the_plain_reader(layout: Layout, seed: int) -> None:
    buffer = make(layout, seed)
    pee = PersonalizedElasticEmbedding(buffer)
    plain = unpack_embedding(buffer)
    want = np.zeros((200, 20), np.float32)
    want[plain.ids] = plain.rows
    assert np.array_equal(pee.lookup(np.arange(200)), want)
    shaped = np.arange(12, dtype=np.int16).reshape(3, 4)[:, ::2]
    assert np.array_equal(pee.lookup(shaped), want[shaped])
    assert pee.lookup([]).shape == (0, 20)
    assert pee.lookup(3).shape == (20,)
    assert np.array_equal(pee.row_ids, np.sort(plain.ids[plain.held != 0]))
    assert (pee.nbytes, pee.num_embeddings, pee.embedding_dim) == (plain.nbytes, 200, 20)
    assert np.array_equal(pee.buffer, buffer)


def test_opens_bytes_at_any_address() -> None:
    buffer = make(PlanesLayout(), 0)
    want = PersonalizedElasticEmbedding(buffer).lookup(np.arange(200))
    for shift in range(1, 9):
        moved = np.concatenate([np.zeros(shift, np.uint8), buffer])[shift:]
        assert np.array_equal(PersonalizedElasticEmbedding(moved).lookup(np.arange(200)), want)
    assert np.array_equal(
        PersonalizedElasticEmbedding(buffer.tobytes()).lookup(np.arange(200)), want
    )


def test_the_buffer_outlives_its_maker() -> None:
    import gc

    pee = PersonalizedElasticEmbedding(make(PlanesLayout(), 1))
    before = pee.lookup(np.arange(200))
    gc.collect()
    np.ones(10_000_000)  # something else may take freed memory
    assert np.array_equal(pee.lookup(np.arange(200)), before)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (
            lambda pee: pee.lookup([200]),
            IndexError,
            "indices contain 200, expected ids in [0, 200)",
        ),
        (lambda pee: pee.lookup([3, -1]), IndexError, "indices contain -1"),
        (lambda pee: pee.lookup([1.5]), TypeError, "indices must be integers, got float64"),
        (lambda pee: pee.score(np.ones(20), 5), ValueError, "users must have shape"),
        (lambda pee: pee.score(np.ones((1, 19)), 5), ValueError, "users must have shape"),
        (lambda pee: pee.score(np.full((1, 20), np.nan), 5), ValueError, "users[0] must be finite"),
        (
            lambda pee: pee.score(np.ones((1, 20)), 0),
            ValueError,
            "n must be an integer from 1 to 2147483647, got 0",
        ),
        (lambda pee: pee.score(np.ones((1, 20)), 2.5), ValueError, "n must be an integer"),
        (lambda pee: pee.score(np.ones((1, 20)), 1 << 70), ValueError, "n must be an integer from"),
        (lambda pee: pee.score([["a"] * 20], 5), TypeError, "users must hold real numbers"),
        (
            lambda pee: pee.score(np.ones((1, 20)) * 1j, 5),
            TypeError,
            "users must hold real numbers",
        ),
        (lambda pee: pee.score(np.full((1, 20), 1e300), 5), ValueError, "users[0] must be finite"),
        (
            lambda pee: pee.lookup(np.array([1, 1 << 63], np.uint64)),
            IndexError,
            "indices contain 9223372036854775808",
        ),
        (lambda pee: pee.score(np.ones((1, 20)), 5, 7), TypeError, "exclude must hold one list"),
        (lambda pee: pee.score(np.ones((1, 20)), 5, "7"), TypeError, "exclude must hold one list"),
        (
            lambda pee: pee.score(np.ones((2, 20)), 5, [[1, 2, 3], [5, -1]]),
            IndexError,
            "exclude[1] holds -1, expected ids in [0, 200)",
        ),
        (
            lambda pee: pee.score(np.ones((1, 20)), 5, [np.array([1 << 63], np.uint64)]),
            IndexError,
            "exclude[0] holds 9223372036854775808",
        ),
        (lambda pee: pee.score(np.ones((1, 20)), 5, []), ValueError, "one list of ids per user"),
        (lambda pee: pee.score(np.ones((1, 20)), 5, [[200]]), IndexError, "exclude[0] holds 200"),
        (lambda pee: pee.score(np.ones((1, 20)), 5, [["a"]]), TypeError, "exclude[0] must hold"),
    ],
)
def test_rejects(call, error: type[Exception], named: str) -> None:
    pee = PersonalizedElasticEmbedding(make(PlanesLayout(), 0))
    with pytest.raises(error) as caught:
        call(pee)
    assert named in str(caught.value)


def test_takes_arrays_as_they_come() -> None:
    pee = PersonalizedElasticEmbedding(make(PlanesLayout(), 0))
    users = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)
    ids, scores = pee.score(users, np.int32(5))
    frozen = users.copy()
    frozen.setflags(write=False)
    for same in (frozen, users.astype(np.float64), users.tolist(), np.asfortranarray(users)):
        again = pee.score(same, 5)
        assert np.array_equal(again[0], ids)
        assert np.array_equal(again[1], scores)
    whole = np.arange(60).reshape(3, 20) % 7
    assert np.array_equal(pee.score(whole, 5)[0], pee.score(whole.astype(np.float32), 5)[0])
    assert pee.score(users[:0], 5)[0].shape == (0, 5)
    every, _ = pee.score(users, 200, np.zeros((3, 0), np.int64))
    assert np.array_equal(every[:, :5], ids)


def test_what_was_opened_cannot_be_changed() -> None:
    bytes_of_mine = make(PlanesLayout(), 0)
    pee = PersonalizedElasticEmbedding(bytes_of_mine)
    with pytest.raises(ValueError, match="read-only"):
        pee.buffer[70] = 1
    assert bytes_of_mine.flags.writeable


def test_exclusions_and_too_few_rows() -> None:
    pee = PersonalizedElasticEmbedding(make(PlanesLayout(), 0))
    user = np.random.default_rng(0).normal(size=(1, 20))
    every, _ = pee.score(user, 300)
    held = len(pee.row_ids)
    assert np.array_equal(np.sort(every[0, :held]), pee.row_ids)
    assert np.all(every[0, held:] == -1)
    left, scores = pee.score(user, 300, [every[0, :10]])
    assert np.array_equal(left[0, : held - 10], every[0, 10:held])
    assert np.all(np.isneginf(scores[0, held - 10 :]))


def test_fold_in_is_the_mean_direction() -> None:
    rows = np.array([[2.0, 0], [0, 5.0], [0, 0]])
    assert fold_in_mean(rows) == pytest.approx(np.array([1, 1]) / np.sqrt(2))
    assert fold_in_mean(np.zeros((2, 3))).tolist() == [0, 0, 0]


def test_fold_in_refuses_what_has_no_mean() -> None:
    with pytest.raises(ValueError, match="rows must have 2 dimensions"):
        fold_in_mean(np.zeros(3))
    with pytest.raises(ValueError, match=r"rows\[1\] must be finite"):
        fold_in_mean([[1.0, 2.0], [np.nan, 1.0]])
    assert fold_in_mean(np.zeros((0, 3))).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="rows must have 2 dimensions"):
        fold_in_mean(np.zeros(3))


@pytest.mark.parametrize("num_rows", [3_000, 70_000])  # ids of 2 and of 4 bytes
@pytest.mark.parametrize("spread", ["even", "runs", "ends", "first and last"])
def test_rows_are_found_however_ids_lie_in_item_groups(
    num_rows: int, spread: str, seed: int
) -> None:
    """A search begins where an id would be, were all equally likely: it must find the others, too."""
    rng = np.random.default_rng(seed)
    layout = PlanesLayout((1,))
    store = rng.integers(0, 2, (num_rows, 1), dtype=np.uint8)
    scales = rng.integers(1, 1_000, (num_rows, 1)).astype(np.float16)
    sizes = layout.item_group_sizes(num_rows)
    ids = rng.permutation(num_rows) if spread == "even" else np.arange(num_rows)
    if spread == "ends":  # each item group has some of the lowest, and some of the highest left
        ids = np.stack([np.arange(num_rows), np.arange(num_rows)[::-1]], axis=1).ravel()[:num_rows]
    elif spread == "first and last":  # one far from all others in each
        outliers = rng.choice(num_rows, len(sizes), replace=False)
        rest = iter(np.setdiff1d(ids, outliers))
        parts = [
            [o, *(next(rest) for _ in range(n - 1))] for o, n in zip(outliers, sizes, strict=True)
        ]
        ids = np.concatenate(parts)
    groups = [np.sort(part) for part in np.split(ids, np.cumsum(sizes)[:-1])]
    order = np.arange(len(sizes))
    table = GroupTable(layout, 1, EncodedRows(store, scales), groups, order)
    for count in (len(sizes), len(sizes) // 2):
        pee = PersonalizedElasticEmbedding(pack_prefix(table, count))
        want = layout.decode(store, scales, 1, 1)
        held = np.concatenate(groups[:count])
        want[np.setdiff1d(np.arange(num_rows), held)] = 0
        asked = np.arange(num_rows) if num_rows < 5_000 else rng.choice(num_rows, 3_000)
        assert np.array_equal(pee.lookup(asked), want[asked])
