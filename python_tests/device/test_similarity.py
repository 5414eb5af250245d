"""Items most like one: the device, a generated embedding and a full table, by the same rules."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tables import LAYOUTS, draw_table

from peel_ext import _core
from peel_ext.device import DeviceRecommender, PersonalizedElasticEmbedding, similar_rows
from peel_ext.errors import ClosedError, DataError
from peel_ext.format import (
    ColumnsLayout,
    Layout,
    PlanesLayout,
    pack_prefix,
    unpack_embedding,
    write_file,
)

ROWS, DIM = 600, 16
NAMES = [f"item-{row}" for row in range(ROWS)]


def awkward_table(layout: Layout, rng: np.random.Generator, num_rows: int = ROWS) -> bytes:
    """A file in which two rows are zero, and the second half repeats the first."""
    table = draw_table(layout, rng, num_rows, DIM)
    half = num_rows // 2
    for array in (table.rows.store, table.rows.scales):
        array[[3, 8]] = 0
        array[half : 2 * half] = array[:half]
    return pack_prefix(table).tobytes()


def plain_similar(
    table: np.ndarray, index: int, n: int, held: np.ndarray
) -> tuple[list[int], list[float]]:
    """Ids and cosines [n] for one row of a table, pair by pair."""

    def cosine(a: np.ndarray, b: np.ndarray) -> np.float32:
        length = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
        return np.float32((a * b).sum() / length if length else 0)

    rows = table.astype(np.float64)
    others = [(cosine(rows[index], rows[other]), int(other)) for other in held if other != index]
    best = sorted(others, key=lambda pair: (-pair[0], pair[1]))[:n]
    best += [(np.float32(-np.inf), -1)] * (n - len(best))
    return [other for _, other in best], [float(score) for score, _ in best]


def decoded(data: bytes, budget: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows [num_embeddings, dim], zero where not held, and the ids held, ascending."""
    plain = unpack_embedding(data, budget)
    rows = np.zeros((plain.num_embeddings, plain.rows.shape[1]), np.float32)
    rows[plain.ids] = plain.rows
    return rows, np.sort(plain.ids[plain.held != 0])


@pytest.mark.parametrize("n", [1, 7, 60])
def test_a_table_by_the_plain_formula(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(50, 5)).astype(np.float32)
    table[[4, 30]] = 0
    table[40] = table[10]
    table[41] = 3 * table[10]
    indices = rng.choice(50, 9)
    indices[:3] = 4, 10, 41
    ids, scores = similar_rows(table, indices, n)
    assert (ids.shape, ids.dtype, scores.shape, scores.dtype) == (
        (9, n), np.int64, (9, n), np.float32,
    )  # fmt: skip
    for index, own, cosines in zip(indices, ids, scores, strict=True):
        want_ids, want_scores = plain_similar(table, index, n, np.arange(50))
        assert own.tolist() == want_ids
        assert np.allclose(cosines, want_scores, rtol=1e-6)


def test_a_table_is_looked_at_block_by_block(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(-2, 3, size=(301, 3)).astype(np.float32)  # many ties, some rows of zeros
    indices = rng.choice(301, 40)
    want = similar_rows(table, indices, 25)
    monkeypatch.setattr("peel_ext.device.similarity._BLOCK_BYTES", 8 * 40 * 7)
    monkeypatch.setattr("peel_ext.device.similarity._CHUNK_ITEMS", 11)
    got = similar_rows(table, indices, 25)
    assert np.array_equal(got[0], want[0])
    assert np.array_equal(got[1], want[1])
    for index, own in zip(indices[:5], got[0], strict=False):
        assert own.tolist() == plain_similar(table, index, 25, np.arange(301))[0]


@pytest.mark.once
def test_a_large_table_takes_little_memory() -> None:
    table = np.random.default_rng(0).normal(size=(400_000, 32)).astype(np.float32)
    tracemalloc.start()
    try:
        similar_rows(table, [5], 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * table.nbytes  # in float64 it would be twice its size


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_device_agrees_with_the_table_it_decodes_to(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = awkward_table(layout, rng)
    for budget in (None, 12_000, 7_000):
        rows, held = decoded(data, budget)
        asked = np.unique([*rng.choice(held, 40), *(held[np.isin(held, [3, 8])])])
        at, want = similar_rows(rows[held], np.searchsorted(held, asked), ROWS)
        want_ids = np.where(at < 0, -1, held[at])
        ids, scores = PersonalizedElasticEmbedding(data, budget).similar(asked, ROWS)
        assert np.array_equal(ids, want_ids)
        assert np.allclose(scores, want, rtol=1e-6, atol=1e-7)
        with DeviceRecommender.open(data, budget) as recommender:
            for item, own, cosines in zip(asked, ids, scores, strict=True):
                items, best = recommender.similar(item, n=9)
                assert isinstance(items, np.ndarray)
                assert items.tolist() == own[:9].tolist()
                assert np.array_equal(best, cosines[:9])
            items, best = recommender.similar(int(asked[0]), n=10**6)
            assert len(items) == len(best) == len(held) - 1


def test_equal_rows_come_by_id_and_rows_of_zeros_have_cosine_zero() -> None:
    data = awkward_table(PlanesLayout(), np.random.default_rng(0))
    with DeviceRecommender.open(data) as recommender:
        items, scores = recommender.similar(5, n=ROWS)
        assert (items[0], scores[0]) == (305, 1)  # its twin, and exactly
        zero = np.isin(items, [3, 8, 303, 308])
        assert np.asarray(items)[zero].tolist() == [3, 8, 303, 308]
        assert scores[zero].tolist() == [0] * 4
        pairs = np.asarray(items[1:])[~zero[1:]].reshape(-1, 2)  # twins, the lower id first
        assert np.array_equal(pairs[:, 0] + 300, pairs[:, 1])
        items, scores = recommender.similar(3)
        assert np.asarray(items).tolist() == [*range(3), *range(4, 21)]
        assert not scores.any()


def test_a_cosine_that_is_no_number_is_never_returned() -> None:
    table = draw_table(ColumnsLayout(4), np.random.default_rng(0), 50, DIM)
    table.rows.store.view(np.float32)[[5, 6], 2] = np.nan, np.inf
    pee = PersonalizedElasticEmbedding(pack_prefix(table))
    ids, scores = pee.similar([1, 5], 50)
    assert np.sort(ids[0, :47]).tolist() == [0, *range(2, 5), *range(7, 50)]
    assert np.isfinite(scores[0, :47]).all()
    assert (ids[0, 47:] == -1).all()
    assert (ids[1] == -1).all()


def test_threads_change_nothing() -> None:
    data = awkward_table(PlanesLayout(), np.random.default_rng(3), 6_000)
    asked = np.arange(0, 6_000, 77)
    before = _core.num_threads()
    answers = []
    try:
        for threads in (1, 2, 5):
            _core.set_num_threads(threads)
            answers.append(PersonalizedElasticEmbedding(data).similar(asked, 50))
    finally:
        _core.set_num_threads(before)
    for ids, scores in answers[1:]:
        assert np.array_equal(ids, answers[0][0])
        assert np.array_equal(scores, answers[0][1])


@pytest.mark.parametrize("isa", _core.isas())
def test_instruction_sets_change_nothing(isa: str, tmp_path: Path) -> None:
    for at, layout in enumerate(LAYOUTS):
        data = awkward_table(layout, np.random.default_rng(3))
        (tmp_path / f"{at}.peel").write_bytes(data)
    code = (
        "import sys, numpy as np; from peel_ext.device import PersonalizedElasticEmbedding as P\n"
        "for path in sys.argv[1:]:\n"
        "    ids, scores = P(open(path, 'rb').read()).similar(np.arange(0, 600, 7), 30)\n"
        "    print(ids.tobytes().hex(), scores.tobytes().hex())"
    )
    command = [sys.executable, "-P", "-c", code, *map(str, sorted(tmp_path.iterdir()))]
    portable, own = (
        subprocess.run(
            command, check=True, capture_output=True, env={**os.environ, "PEEL_ISA": name}
        ).stdout
        for name in ("portable", isa)
    )
    assert len(portable.splitlines()) == len(LAYOUTS)
    assert own == portable


@pytest.mark.once
def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    table = draw_table(ColumnsLayout(8, "int8"), np.random.default_rng(0), 100_000, 64)
    write_file(tmp_path / "a.peel", table)
    code = (
        "import sys; from peel_ext.device import DeviceRecommender\n"
        "def most(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "recommender = DeviceRecommender.open(sys.argv[1])\n"
        "before = most()\n"
        "recommender.similar(5, n=100)\n"
        "print(most() - before)"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "a.peel")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 2_048  # KiB; decoded, the rows are 25,000


@pytest.mark.parametrize("names", [NAMES, list(range(ROWS, 0, -1))])
def test_items_go_by_their_ids(names: list, tmp_path: Path) -> None:
    path = tmp_path / "a.peel"
    write_file(path, draw_table(LAYOUTS[0], np.random.default_rng(0), ROWS, DIM), item_ids=names)
    with (
        DeviceRecommender.open(path) as named,
        DeviceRecommender.open(path, item_ids=False) as plain,
    ):
        rows, scores = plain.similar(5)
        assert len(rows) == 20
        items, same = named.similar(names[5])
        assert items == [names[row] for row in rows]
        assert np.array_equal(scores, same)
        with pytest.raises(DataError, match="item 'nobody' is not known"):
            named.similar("nobody")
        with pytest.raises(TypeError, match="item must be an integer or text, got None"):
            named.similar(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("layout", "budget"), [(PlanesLayout(), 3_000), (ColumnsLayout(8), 4_500)])
def test_an_item_that_is_not_held_is_an_error(layout: Layout, budget: int) -> None:
    data = awkward_table(layout, np.random.default_rng(0))
    held = decoded(data, budget)[1]
    missing = int(np.setdiff1d(np.arange(ROWS), held)[0])
    with DeviceRecommender.open(data, budget) as recommender:
        with pytest.raises(DataError, match=f"item {missing} is not held: a larger budget may"):
            recommender.similar(missing)
        recommender.resize(None)
        assert len(recommender.similar(missing)[0]) == 20
    pee = PersonalizedElasticEmbedding(data, budget)
    with pytest.raises(DataError, match=rf"indices\[1\] is {missing}, which is not held"):
        pee.similar([held[0], missing], 5)


def test_items_as_they_come() -> None:
    pee = PersonalizedElasticEmbedding(awkward_table(PlanesLayout(), np.random.default_rng(0)))
    want = pee.similar([7, 7, 1], 4)
    assert np.array_equal(want[0][0], want[0][1])
    for same in (np.array([7, 7, 1], np.uint8), np.array([7, 0, 7, 0, 1], np.int32)[::2]):
        assert np.array_equal(pee.similar(same, 4)[0], want[0])
    assert pee.similar([], 4)[0].shape == (0, 4)
    with DeviceRecommender.open(pee.buffer) as recommender:
        assert np.array_equal(recommender.similar(np.int32(7), np.int64(4))[0], want[0][0])


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda r: r.similar(ROWS), IndexError, "item is 600, expected an id in [0, 600)"),
        (lambda r: r.similar(-1), IndexError, "item is -1, expected an id in [0, 600)"),
        (lambda r: r.similar(1 << 70), IndexError, "item is 1180591620717411303424, expected"),
        (lambda r: r.similar("a"), TypeError, "item must be an integer, got 'a'"),
        (lambda r: r.similar([1]), TypeError, "item must be an integer, got [1]"),
        (lambda r: r.similar(True), TypeError, "item must be an integer, got True"),
        (lambda r: r.similar(1, n=0), ValueError, "n must be an integer of at least 1, got 0"),
        (lambda r: r.similar(1, n=2.5), ValueError, "n must be an integer of at least 1, got 2.5"),
    ],
)
def test_a_device_rejects(call, error: type[Exception], named: str) -> None:
    data = awkward_table(PlanesLayout(), np.random.default_rng(0))
    recommender = DeviceRecommender.open(data)
    with pytest.raises(error) as caught:
        call(recommender)
    assert named in str(caught.value)
    recommender.close()
    with pytest.raises(ClosedError):
        recommender.similar(1)


@pytest.mark.parametrize(
    ("indices", "n", "error", "named"),
    [
        ([1, 600], 5, IndexError, "indices contain 600, expected ids in [0, 600)"),
        ([-1], 5, IndexError, "indices contain -1"),
        (np.array([1 << 63], np.uint64), 5, IndexError, "indices contain 9223372036854775808"),
        ([1.5], 5, TypeError, "indices must be integers, got float64"),
        (3, 5, ValueError, "indices must have 1 dimension, got shape ()"),
        ([[3]], 5, ValueError, "indices must have 1 dimension, got shape (1, 1)"),
        ([3], 0, ValueError, "n must be an integer from 1 to 2147483647, got 0"),
        ([3], True, ValueError, "n must be an integer from 1 to 2147483647, got True"),
        ([3], 1 << 31, ValueError, "n must be an integer from 1 to 2147483647, got 2147483648"),
    ],
)
def test_tables_reject(indices, n, error: type[Exception], named: str) -> None:
    pee = PersonalizedElasticEmbedding(awkward_table(PlanesLayout(), np.random.default_rng(0)))
    table = np.ones((600, 3), np.float32)
    for call in (lambda: pee.similar(indices, n), lambda: similar_rows(table, indices, n)):
        with pytest.raises(error) as caught:
            call()
        assert named in str(caught.value)


def test_tables_that_are_none() -> None:
    with pytest.raises(TypeError, match="table must be floating point, got int64"):
        similar_rows(np.ones((3, 2), np.int64), [0], 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"table must have 2 dimensions, got shape \(3,\)"):
        similar_rows(np.ones(3, np.float32), [0], 1)
    table = np.ones((5, 2), np.float32)
    table[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"table\[3\] must be finite, got \[ 1. nan\]"):
        similar_rows(table, [0], 1)
