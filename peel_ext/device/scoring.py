"""Scoring rows for user vectors: the checks, and a plain table in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peel_ext.device import _bridge
from peel_ext.device.exclusion import check_exclusions
from peel_ext.device.similarity import check_count


def score_rows(
    users: ArrayLike,
    table: NDArray[np.float32],
    n: int,
    exclude: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The n rows of a table with the largest dot product for each user.

    What :func:`peel_ext.ops.gathered_score` computes, of NumPy arrays and without torch.

    Args:
        users: [num_users, dim].
        table: float32 [num_rows, dim].
        n: rows to return, from 1 to 2^31 - 1.
        exclude: rows not to return, in CSR form: indptr int64 [num_users + 1], and rows int64.

    Returns:
        rows int64 and scores float32, both [num_users, n], in descending score, ties by ascending
        row; -1 and -inf where fewer rows remain. A row whose score is NaN is never returned.

    Raises:
        TypeError: users that are not real numbers, or a table that is not float32.
        ValueError: a wrong shape, n out of range, or users that are not finite.
        IndexError: an excluded row out of range.
    """
    if table.dtype != np.float32:
        raise TypeError(f"table must be float32, got {table.dtype}")
    if table.ndim != 2:
        raise ValueError(f"table must have 2 dimensions, got shape {table.shape}")
    rows = np.require(table, requirements=["C", "A"])
    vectors = check_users(users, rows.shape[1])
    count = check_count(n)
    lists = None if exclude is None else check_exclusions(*exclude, len(vectors), len(rows))
    return _bridge.score_rows(rows, vectors, count, lists)


def check_users(users: ArrayLike, dim: int) -> NDArray[np.float32]:
    """User vectors as the native core takes them, float32 [num_users, dim].

    Raises:
        TypeError: not real numbers.
        ValueError: a wrong shape, or not finite.
    """
    given = np.asarray(users)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"users must hold real numbers, got {given.dtype}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
        vectors = np.require(given, np.float32, ["C", "A"])
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(f"users must have shape (num_users, {dim}), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"users[{bad}] must be finite, got {vectors[bad]}")
    return vectors
