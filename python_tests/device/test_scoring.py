from __future__ import annotations

import numpy as np
import pytest
import torch

from peel_ext import ops
from peel_ext.device import score_rows


def exclusions(rng: np.random.Generator, users: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = rng.random((users, rows)) < 0.3
    return np.concatenate([[0], np.cumsum(drawn.sum(axis=1))]), np.nonzero(drawn)[1]


@pytest.mark.parametrize("users", [0, 1, 7, 300])
@pytest.mark.parametrize("rows", [0, 1, 33, 500])
def test_equals_the_op_bit_for_bit(users: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(users, 24)).astype(np.float32)
    table = rng.normal(size=(rows, 24)).astype(np.float32)
    table[::5] = table[:1]  # ties
    table[1::50] = np.nan
    for lists in (None, exclusions(rng, users, rows)):
        options = {}
        if lists is not None:
            indptr, excluded = map(torch.from_numpy, lists)
            options = {"exclude_indptr": indptr, "exclude": excluded}
        for n in (1, 20, 600):
            got = score_rows(vectors, table, n, lists)
            want = ops.gathered_score(
                torch.from_numpy(vectors), torch.from_numpy(table), n, **options
            )
            for mine, its in zip(got, want, strict=True):
                assert mine.dtype == its.numpy().dtype
                assert np.array_equal(mine, its.numpy())


def test_takes_arrays_as_they_come(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, users = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(3, 6))
    want = score_rows(users.astype(np.float32), table, 5)
    shifted = np.frombuffer(b"\0" + table.tobytes(), np.uint8)[1:].view(np.float32).reshape(40, 6)
    for vectors, rows in ((users, np.asfortranarray(table)), (users[:, :].tolist(), shifted)):
        got = score_rows(vectors, rows, 5)
        assert np.array_equal(got[0], want[0])
        assert np.array_equal(got[1], want[1])


TABLE = np.eye(4, 3, dtype=np.float32)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (
            lambda: score_rows(np.ones((1, 3)), TABLE.astype(float), 1),
            TypeError,
            "table must be fl",
        ),
        (lambda: score_rows(np.ones((1, 3)), TABLE[0], 1), ValueError, "table must have 2 dim"),
        (lambda: score_rows(np.ones((1, 2)), TABLE, 1), ValueError, "users must have shape (num_"),
        (lambda: score_rows(np.ones(3), TABLE, 1), ValueError, "users must have shape (num_users"),
        (lambda: score_rows([["a"] * 3], TABLE, 1), TypeError, "users must hold real numbers"),
        (lambda: score_rows([[0, 0, np.inf]], TABLE, 1), ValueError, "users[0] must be finite"),
        (lambda: score_rows(np.ones((1, 3)), TABLE, 0), ValueError, "n must be an integer from 1"),
        (lambda: score_rows(np.ones((1, 3)), TABLE, True), ValueError, "n must be an integer from"),
        (
            lambda: score_rows(np.ones((1, 3)), TABLE, 1, (np.array([0, 1]), np.array([4]))),
            IndexError,
            "exclude[0] is 4",
        ),
        (
            lambda: score_rows(np.ones((1, 3)), TABLE, 1, (np.array([0]), np.array([4]))),
            ValueError,
            "exclude_indptr must have shape (2,)",
        ),
    ],
)
def test_rejects(call, error: type[Exception], named: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert named in str(caught.value)
