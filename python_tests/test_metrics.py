from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from peel_ext.metrics import mean_interval, measure_users, paired_bootstrap, rank_quality

METRICS = ("recall", "ndcg", "hit_rate", "mrr")


def plain(returned: list[int], wanted: set[int], n: int) -> dict[str, float]:
    """The definitions, for one user."""
    ranks = [rank for rank, item in enumerate(returned[:n], start=1) if item in wanted]
    best = [1 / math.log2(rank + 1) for rank in range(1, min(n, len(wanted)) + 1)]
    return {
        "recall": len(ranks) / len(wanted),
        "ndcg": sum(1 / math.log2(rank + 1) for rank in ranks) / sum(best),
        "hit_rate": float(bool(ranks)),
        "mrr": 1 / ranks[0] if ranks else 0.0,
    }


def draw(seed: int, length: int) -> tuple[np.ndarray, list[set[int]], np.ndarray, np.ndarray]:
    """Lists, some of them short; target sets, some of them empty; and those in CSR form."""
    rng = np.random.default_rng(seed)
    lists = np.array([rng.permutation(30)[:length] for _ in range(50)])
    for user in range(50):
        lists[user, length - rng.integers(length + 1) :] = -1
    targets = [set(rng.permutation(30)[: rng.integers(8)].tolist()) for _ in range(50)]
    indptr = np.cumsum([0, *map(len, targets)])
    flat = np.array([item for wanted in targets for item in wanted], dtype=np.int64)
    return lists, targets, indptr, flat


@pytest.mark.parametrize(("length", "n"), [(1, 1), (5, 5), (20, 20), (20, 10), (20, 1)])
def test_equals_the_plain_definitions(length: int, n: int, seed: int) -> None:
    lists, targets, indptr, flat = draw(seed, length)
    measured = measure_users(lists, indptr, flat, n)
    assert measured.users.tolist() == [user for user in range(50) if targets[user]]
    expected = [plain(lists[user].tolist(), targets[user], n) for user in measured.users]
    for name in METRICS:
        values = [each[name] for each in expected]
        assert getattr(measured, name) == pytest.approx(values, rel=1e-12)
        assert getattr(measured.mean(), name) == pytest.approx(np.mean(values), rel=1e-12)
    assert measured.mean() == rank_quality(lists, indptr, flat, n)


# In a process of its own, for numba must not be told to leave compiling (minutes of it) where
# another library has loaded it already.
_RANX = """
import json, sys, ranx
known, run, metrics = json.load(sys.stdin)
scores = ranx.evaluate(
    ranx.Qrels(known), ranx.Run(run), metrics, return_mean=False, make_comparable=True
)
json.dump({name: values.tolist() for name, values in scores.items()}, sys.stdout)
"""


@pytest.mark.slow
def test_equals_ranx(seed: int) -> None:
    if importlib.util.find_spec("ranx") is None:
        pytest.skip("ranx is not installed")
    lists, targets, indptr, flat = draw(seed, 20)
    lists[:, 0] = np.maximum(lists[:, 0], 0)  # ranx cannot take an empty list
    lengths = (1, 5, 20)
    users = measure_users(lists, indptr, flat, 1).users
    known = {str(u): {str(item): 1 for item in targets[u]} for u in users}
    run = {
        str(u): {str(int(item)): 100.0 - at for at, item in enumerate(lists[u]) if item >= 0}
        for u in users
    }
    names = [f"{name}@{n}" for name in METRICS for n in lengths]
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", _RANX],
        input=json.dumps([known, run, names], default=int),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    theirs = json.loads(done.stdout)
    # ranx sorts users by name as text.
    place = {name: at for at, name in enumerate(sorted(known))}
    at = [place[str(u)] for u in users]
    for n in lengths:
        measured = measure_users(lists, indptr, flat, n)
        for name in METRICS:
            expected = np.array(theirs[f"{name}@{n}"])[at]
            assert getattr(measured, name) == pytest.approx(expected, abs=1e-9)


def test_a_perfect_and_a_useless_list() -> None:
    indptr, targets = np.array([0, 2]), np.array([4, 9])
    perfect = rank_quality(np.array([[9, 4, 1]]), indptr, targets)
    assert (perfect.recall, perfect.ndcg, perfect.hit_rate, perfect.mrr) == (1, 1, 1, 1)
    useless = rank_quality(np.array([[1, 2, -1]]), indptr, targets)
    assert (useless.recall, useless.ndcg, useless.hit_rate, useless.mrr) == (0, 0, 0, 0)
    late = rank_quality(np.array([[1, 2, 9]]), indptr, targets)
    assert (late.recall, late.hit_rate, late.mrr) == (0.5, 1, pytest.approx(1 / 3))


def test_nobody_has_targets() -> None:
    quality = rank_quality(np.array([[1]]), np.array([0, 0]), np.zeros(0, np.int64))
    assert math.isnan(quality.recall)
    assert quality.num_users == 0
    empty = rank_quality(np.zeros((0, 5), np.int64), np.array([0]), np.zeros(0, np.int64))
    assert empty.num_users == 0
    nothing = rank_quality(np.zeros((1, 0), np.int64), np.array([0, 1]), np.array([3]))
    assert (nothing.recall, nothing.ndcg, nothing.mrr) == (0, 0, 0)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"indptr must have shape \(2,\), got \(3,\)"):
        rank_quality(np.array([[1]]), np.array([0, 0, 0]), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="n must lie between 0 and the 1 items returned, got 2"):
        rank_quality(np.array([[1]]), np.array([0, 0]), np.zeros(0, np.int64), 2)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    covered = 0
    for trial in range(300):
        easy = rng.normal(size=80)  # what makes a user easy for both is far larger than the gain
        first = easy + 0.3 + 0.5 * rng.normal(size=80)
        found = paired_bootstrap(first, easy, num_samples=300, seed=trial)
        assert found.low < found.mean < found.high
        covered += found.low <= 0.3 <= found.high
    assert 0.88 < covered / 300 < 0.99


def test_the_bootstrap_is_paired_and_seeded() -> None:
    easy = np.linspace(0, 10, 500)
    steady = paired_bootstrap(easy + 0.1, easy)
    assert steady.low == pytest.approx(0.1)
    assert steady.high == pytest.approx(0.1)
    values = np.random.default_rng(0).random((2, 50))
    assert paired_bootstrap(*values, seed=1) == paired_bootstrap(*values, seed=1)
    assert paired_bootstrap(*values, seed=1) != paired_bootstrap(*values, seed=2)
    narrow, wide = (paired_bootstrap(*values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"second": np.zeros(3)}, r"same, not zero, length, got shapes \(2,\) and \(3,\)"),
        ({"first": np.zeros(0), "second": np.zeros(0)}, "not zero, length"),
        ({"level": 1.0}, "level must lie between 0 and 1, got 1.0"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
    ],
)
def test_a_bootstrap_that_makes_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(**({"first": np.zeros(2), "second": np.zeros(2)} | arguments))


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(400):
        low, high = mean_interval(rng.gamma(2.0, 1.0, size=200))
        covered += low < 2.0 < high
    assert 0.9 <= covered / 400 <= 0.985
    with pytest.raises(ValueError, match="at least 2 users, got 1"):
        mean_interval(np.ones(1))
