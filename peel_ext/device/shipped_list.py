"""The list a server shipped beside a user's vector: scores of items whose rows a device may lack."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_shipped(rows: NDArray[np.int64], scores: ArrayLike) -> NDArray[np.float32]:
    """The scores float32 [m] of a list's rows [m].

    Raises:
        ValueError: not as many scores, one that is not finite, or a row that is there twice.
    """
    worth = np.asarray(scores, dtype=np.float32)
    if worth.shape != rows.shape:
        raise ValueError(
            f"shipped must have a score for each of its {len(rows)} items, got scores of shape "
            f"{worth.shape}"
        )
    if not np.isfinite(worth).all():
        bad = int(np.argmin(np.isfinite(worth)))
        raise ValueError(
            f"the scores of shipped must be finite, that of item {bad} is {worth[bad]}"
        )
    order = np.argsort(rows, kind="stable")
    again = np.flatnonzero(np.diff(rows[order]) == 0)
    if len(again):
        first, second = order[again[0] : again[0] + 2].tolist()
        raise ValueError(f"shipped must name an item once, its items {first} and {second} are one")
    return worth


def add_shipped(
    found: NDArray[np.int64],
    scores: NDArray[np.float32],
    shipped: NDArray[np.int64],
    shipped_scores: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best of the rows found and of shipped items that are not held, with the scores of each.

    What a new vector would say of an item that is not held nobody knows on a device. It keeps the
    score it had when the list was made: that of the vector shipped.

    Args:
        found: [num_users, n], rows as they were ranked, -1 for none.
        scores: [num_users, n], -infinity for none.
        shipped: [num_users, k], none of them among those found, -1 for none.
        shipped_scores: [num_users, k], not looked at where there is none.

    Returns:
        Rows [num_users, n] and their scores, best first, equal scores in ascending row.
    """
    rows = np.concatenate([found, shipped], axis=1)
    nothing = np.float32(-np.inf)
    worth = np.concatenate([scores, np.where(shipped < 0, nothing, shipped_scores)], axis=1)
    best = np.lexsort((rows, -worth), axis=1)[:, : found.shape[1]]
    return np.take_along_axis(rows, best, axis=1), np.take_along_axis(worth, best, axis=1)
