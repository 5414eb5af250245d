from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from peel_ext.device import continue_vectors, fold_in_mean, fold_in_softmax, fold_in_users
from peel_ext.device.fold_in import sample_rows


def plain_fold_in(rows: np.ndarray, history: list[int], steps: int, size: float, t: float):
    """One user, written with loops in float64."""
    units = [row / np.linalg.norm(row) if row.any() else row for row in rows.astype(np.float64)]
    liked = [units[item] for item in history if rows[item].any()]
    if not liked:
        return np.zeros(rows.shape[1])
    u = np.mean(liked, axis=0)
    u /= np.linalg.norm(u)
    for _ in range(steps):
        weights = {j: np.exp(u @ v / t) for j, v in enumerate(units) if v.any()}
        expected = sum(weights[j] * units[j] for j in weights) / sum(weights.values())
        u = u - size * (expected - np.mean(liked, axis=0)) / t
        u /= np.linalg.norm(u)
    return u


def make_users(rng: np.random.Generator, num_rows: int, num_users: int):
    histories = [rng.integers(num_rows, size=rng.integers(6)).tolist() for _ in range(num_users)]
    indptr = np.cumsum([0, *map(len, histories)])
    return (
        histories,
        indptr,
        np.array([item for history in histories for item in history], dtype=np.int64),
    )


@pytest.mark.parametrize("num_rows", [1, 2, 33])
@pytest.mark.parametrize("steps", [0, 1, 20])
def test_equals_the_plain_formula(num_rows: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_rows, 5)).astype(np.float32)
    rows[rng.random(num_rows) < 0.3] = 0  # not held
    histories, indptr, items = make_users(rng, num_rows, 17)
    found = fold_in_users(rows, indptr, items, steps=steps, step_size=0.02, temperature=0.2)
    for vector, history in zip(found, histories, strict=True):
        expected = plain_fold_in(rows, history, steps, 0.02, 0.2)
        np.testing.assert_allclose(vector, expected, atol=2e-5)
        alone = fold_in_softmax(rows, history, steps=steps, step_size=0.02, temperature=0.2)
        np.testing.assert_allclose(alone, vector, atol=2e-5)


def test_a_row_of_a_sample_counts_as_often_as_it_stands_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(12, 5)).astype(np.float32)
    rows[3] = 0  # not held
    positions, counts = np.array([0, 3, 5, 9]), np.array([1, 7, 2, 5])
    history = [2, 5, 9]  # rows that are not in the sample have a mean all the same
    # The same rows of the softmax, each as often as it counts, and the history beside them.
    repeated = np.concatenate([np.repeat(rows[positions], counts, axis=0), rows])
    places = np.arange(counts.sum())
    shifted = [item + len(places) for item in history]
    want = fold_in_users(
        repeated, [0, 3], shifted, sample=(places, np.ones(len(places), dtype=np.float32))
    )
    got = fold_in_users(rows, [0, 3], history, sample=(positions, counts.astype(np.float32)))
    np.testing.assert_allclose(got, want, atol=2e-6)
    everything = fold_in_users(rows, [0, 3], history, sample=sample_rows(12))
    np.testing.assert_array_equal(everything, fold_in_users(rows, [0, 3], history))
    assert not np.allclose(got, everything, atol=1e-3)


@pytest.mark.parametrize("num_rows", [0, 1, 1024, 2047, 2048, 2049, 3072, 10_000, 5_000_000_000])
@pytest.mark.parametrize("by_worth", [False, True])
def test_sampled_rows_stand_for_all(num_rows: int, by_worth: bool) -> None:
    positions, weights = sample_rows(num_rows, by_worth)
    assert len(positions) == len(weights) == min(num_rows, 2048)
    assert weights.sum() == pytest.approx(num_rows, rel=1e-6)
    assert (np.diff(positions) > 0).all()
    if num_rows <= 2048:
        return
    assert positions[-1] < num_rows
    first = 1024 if by_worth else 0
    assert positions[:first].tolist() == list(range(first))
    runs = positions[first:].reshape(-1, 16)
    assert (np.diff(runs, axis=1) == 1).all()
    gaps = np.diff(runs[:, 0])
    assert gaps.max() - gaps.min() <= 1


def test_a_sample_of_rows_that_are_not_held_is_no_softmax() -> None:
    rows = np.zeros((4, 3), dtype=np.float32)
    rows[2] = 1
    got = fold_in_users(rows, [0, 1], [2], sample=(np.array([0]), np.ones(1, dtype=np.float32)))
    assert got[0] == pytest.approx(rows[2] / np.sqrt(3))


@pytest.mark.parametrize(
    ("sample", "error", "named"),
    [
        ((np.array([0, 4]), np.ones(2)), IndexError, "sample contains 4, expected rows in"),
        ((np.array([-1]), np.ones(1)), IndexError, "sample contains -1"),
        ((np.array([0]), np.ones(2)), ValueError, "two vectors of one length"),
        ((np.array([0]), np.zeros(1)), ValueError, "above 0, got 0"),
    ],
)
def test_rejects_a_sample(sample, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        fold_in_users(np.eye(4, dtype=np.float32), [0, 1], [2], sample=sample)


def test_chunks_do_not_show(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(50, 8)).astype(np.float32)
    _, indptr, items = make_users(rng, 50, 23)
    whole = fold_in_users(rows, indptr, items)
    monkeypatch.setattr("peel_ext.device.fold_in._CHUNK_BYTES", 4 * 50 * 3)
    np.testing.assert_allclose(fold_in_users(rows, indptr, items), whole, atol=1e-5)


def test_without_steps_it_is_the_mean(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_allclose(
        fold_in_softmax(rows, [3, 1, 3], steps=0), fold_in_mean(rows[[3, 1, 3]]), atol=1e-6
    )


def test_the_history_becomes_more_likely(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, 16)).astype(np.float32)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    history = rng.integers(200, size=12)

    def loss(u: np.ndarray) -> float:
        scores = units @ u / 0.1
        return float(np.log(np.exp(scores).sum()) - scores[history].mean())

    assert loss(fold_in_softmax(rows, history)) < loss(fold_in_mean(rows[history])) - 1e-3


def test_lengths_and_rows_not_held_count_for_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(12, 4)).astype(np.float32)
    expected = fold_in_softmax(rows, [0, 5])
    stretched = rows * rng.uniform(0.1, 9, size=(12, 1)).astype(np.float32)
    padded = np.concatenate([stretched, np.zeros((3, 4), np.float32)])
    np.testing.assert_allclose(fold_in_softmax(padded, [0, 13, 5]), expected, atol=1e-5)


def test_nothing_to_fold_in() -> None:
    rows = np.zeros((3, 4), np.float32)
    assert fold_in_softmax(rows, [0, 2]).tolist() == [0] * 4
    assert fold_in_softmax(np.ones((3, 4)), []).tolist() == [0] * 4
    assert fold_in_softmax(np.zeros((0, 4)), []).tolist() == [0] * 4
    assert fold_in_users(rows, [0], []).shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"rows": np.zeros(3)}, ValueError, "rows must have 2 dimensions"),
        ({"indptr": [1, 2]}, ValueError, "rise from 0 to the 2 items"),
        ({"indptr": [0, 3]}, ValueError, "rise from 0 to the 2 items"),
        ({"indptr": [0, 2, 1, 2]}, ValueError, "rise from 0"),
        ({"indptr": []}, ValueError, "indptr must rise"),
        ({"indptr": [0.0, 2.0]}, TypeError, "indptr must be integers"),
        ({"histories": [[0, 1]]}, ValueError, "must be vectors"),
        ({"histories": [0.0, 1.0]}, TypeError, "histories must be integers"),
        ({"histories": [0, 4]}, IndexError, r"contain 4, expected rows in \[0, 4\)"),
        ({"histories": [-1, 0]}, IndexError, "contain -1"),
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"step_size": 0.0}, ValueError, "step_size must be above 0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be above 0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], told: str) -> None:
    good = {"rows": np.ones((4, 3)), "indptr": [0, 2], "histories": [0, 1]}
    with pytest.raises(error, match=told):
        fold_in_users(**(good | change))


def test_a_history_that_is_not_a_vector() -> None:
    with pytest.raises(ValueError, match="history must have 1 dimension"):
        fold_in_softmax(np.ones((4, 3)), [[0, 1]])


def test_continuing_moves_by_the_share_of_new_items(seed: int) -> None:
    rng = np.random.default_rng(seed)
    old, new = (fold_in_mean(rng.normal(size=(3, 5))) for _ in range(2))
    half = continue_vectors(old, new, 0.5)
    np.testing.assert_allclose(half, (old + new) / np.linalg.norm(old + new), atol=1e-6)
    np.testing.assert_allclose(continue_vectors(old, new, 0), old, atol=1e-6)
    np.testing.assert_allclose(continue_vectors(old, new, 1), new, atol=1e-6)
    many = continue_vectors(np.stack([old, old]), np.stack([new, new]), [0.5, 1])
    np.testing.assert_allclose(many, [half, new], atol=1e-6)


def test_continuing_with_nothing_held_keeps_the_vector() -> None:
    old = np.array([0.6, 0.8], np.float32)
    assert continue_vectors(old, np.zeros(2), 1.0) == pytest.approx(old)
    assert continue_vectors(np.zeros(2), np.zeros(2), 0.5).tolist() == [0, 0]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match=r"new_share must lie in \[0, 1\]"):
        continue_vectors(np.ones(2), np.ones(2), share)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        continue_vectors(np.ones((2, 3)), np.ones((2, 3)), 0.5)
    with pytest.raises(ValueError, match="must have one shape"):
        continue_vectors(np.ones(3), np.ones(2), 0.5)
