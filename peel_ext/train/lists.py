"""Lists of items, one a user, in CSR form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: indptr int64 [num_users + 1] and items; user u's are ``items[indptr[u] : indptr[u + 1]]``.
Lists = tuple[NDArray[np.int64], NDArray[np.int64]]


def take_users(lists: Lists, users: NDArray[np.int64]) -> Lists:
    """The lists of some users, in their order."""
    indptr, values = lists
    counts = indptr[users + 1] - indptr[users]
    taken = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    at = np.arange(taken[-1]) + np.repeat(indptr[users] - taken[:-1], counts)
    return taken, values[at]


def merge_lists(parts: Sequence[Lists], num_items: int) -> Lists:
    """For each user the distinct items of all parts, ascending.

    Args:
        parts: lists of the same users, at least one.
        num_items: items are below.
    """
    num_users = len(parts[0][0]) - 1
    owners = [np.repeat(np.arange(num_users), np.diff(indptr)) for indptr, _ in parts]
    cells = [
        owner * num_items + items for owner, (_, items) in zip(owners, parts, strict=True)
    ]  # one number for each pair of user and item
    merged = np.unique(np.concatenate(cells))
    indptr = np.searchsorted(merged, np.arange(num_users + 1) * num_items)
    return indptr.astype(np.int64), merged % max(num_items, 1)
