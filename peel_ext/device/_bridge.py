"""The one place of the device layer that touches addresses of NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from peel_ext import _core

Exclusions = tuple[NDArray[np.int64], NDArray[np.int64]]


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else int(array.__array_interface__["data"][0])


def lookup(pee: _core.Pee, indices: NDArray[np.int64]) -> tuple[int, int, NDArray[np.float32]]:
    """Status, offending position and rows float32 [m, dim] of contiguous ids [m]."""
    rows = np.empty((len(indices), pee.dim), dtype=np.float32)
    status, position = pee.lookup(len(indices), _address(indices), indices.itemsize, _address(rows))
    return status, position, rows


def score(
    pee: _core.Pee, users: NDArray[np.float32], n: int, exclude: Exclusions | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids int64 and scores float32 [num_users, n] for contiguous users [num_users, dim]."""
    ids = np.empty((len(users), n), dtype=np.int64)
    scores = np.empty((len(users), n), dtype=np.float32)
    indptr, excluded = exclude if exclude is not None else (None, None)
    pee.score(
        _address(users),
        len(users),
        users.shape[1],
        _address(indptr),
        _address(excluded),
        n,
        _address(scores),
        _address(ids),
    )
    return ids, scores
