"""Ids a user's recommendations must not contain, as sorted lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_exclusions(
    indptr: NDArray[np.int64], ids: NDArray[np.int64], num_users: int, num_embeddings: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Checks lists in CSR form and returns them with every user's ids ascending.

    Args:
        indptr: int64 [num_users + 1]; user u's ids are ``ids[indptr[u] : indptr[u + 1]]``.
        ids: int64 [indptr[-1]].
        num_users: users the lists are for.
        num_embeddings: ids must be below.

    Raises:
        ValueError: shapes or offsets that do not fit.
        IndexError: an id out of range.
    """
    if indptr.shape != (num_users + 1,):
        raise ValueError(
            f"exclude_indptr must have shape ({num_users + 1},), got {tuple(indptr.shape)}"
        )
    if indptr[0] != 0 or indptr[-1] != len(ids) or np.any(np.diff(indptr) < 0):
        raise ValueError(
            f"exclude_indptr must rise from 0 to {len(ids)}, the number of excluded ids, "
            f"got {indptr[0]} to {indptr[-1]}"
        )
    bad = np.flatnonzero((ids < 0) | (ids >= num_embeddings))
    if len(bad):
        raise IndexError(
            f"exclude[{bad[0]}] is {ids[bad[0]]}, expected an id in [0, {num_embeddings})"
        )
    owner = np.repeat(np.arange(num_users), np.diff(indptr))
    if np.any((np.diff(ids) < 0) & (np.diff(owner) == 0)):
        ids = ids[np.lexsort((ids, owner))]
    return np.ascontiguousarray(indptr), np.ascontiguousarray(ids)


def exclusion_lists(
    exclude: Sequence[ArrayLike], num_users: int, num_embeddings: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The checked CSR form of one list of ids per user.

    Raises:
        ValueError: not one list per user.
        TypeError: not a sequence of lists, or ids that are not integers.
        IndexError: an id out of range.
    """
    if not isinstance(exclude, Sequence | np.ndarray) or isinstance(exclude, str | bytes):
        raise TypeError(f"exclude must hold one list of ids per user, got {exclude!r}")
    if len(exclude) != num_users:
        raise ValueError(
            f"exclude must hold one list of ids per user, expected {num_users}, got {len(exclude)}"
        )
    lists = [np.asarray(ids).ravel() for ids in exclude]
    for user, ids in enumerate(lists):
        if ids.size and ids.dtype.kind not in "iu":
            raise TypeError(f"exclude[{user}] must hold integers, got {ids.dtype}")
        bad = ids[(ids < 0) | (ids >= num_embeddings)]
        if bad.size:
            raise IndexError(
                f"exclude[{user}] holds {bad[0]}, expected ids in [0, {num_embeddings})"
            )
    indptr = np.cumsum([0, *(ids.size for ids in lists)]).astype(np.int64)
    flat = np.concatenate([np.zeros(0, np.int64), *(ids.astype(np.int64) for ids in lists)])
    return check_exclusions(indptr, flat, num_users, num_embeddings)
