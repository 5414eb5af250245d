"""The one place of the device layer that touches addresses of NumPy arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from peel_ext import _core
from peel_ext.errors import BudgetError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: What has the buffer protocol.
Buffer: TypeAlias = "ReadableBuffer | NDArray[Any]"

Exclusions = tuple[NDArray[np.int64], NDArray[np.int64]]


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else int(array.__array_interface__["data"][0])


def aligned(buffer: Buffer) -> NDArray[np.uint8]:
    """The bytes uint8 [n] at an address that is a multiple of 8: a copy where they are not.

    Raises:
        ValueError: bytes that do not lie one after another, or Python objects.
    """
    view = memoryview(buffer)
    if not view.c_contiguous or "O" in view.format:
        raise ValueError(
            f"bytes must lie one after another, got a {type(buffer).__name__} of format "
            f"{view.format!r}, shape {view.shape} and strides {view.strides}"
        )
    if not view.nbytes:
        return np.zeros(0, dtype=np.uint8)
    data = np.frombuffer(view, dtype=np.uint8)
    if _address(data) % 8:
        moved = np.empty((data.size + 7) // 8, dtype=np.uint64).view(np.uint8)[: data.size]
        moved[:] = data
        return moved
    return data


def is_buffer(file: object) -> TypeGuard[Buffer]:
    """True if an object has the buffer protocol: bytes, a bytearray, a mapped file, an array."""
    try:
        memoryview(file)  # type: ignore[arg-type] # which is the question
    except (TypeError, ValueError, BufferError):
        return isinstance(file, np.ndarray)
    return True


@contextlib.contextmanager
def native_budget(budget_bytes: int | None) -> Iterator[int | None]:
    """A budget as the native core takes it, from 0 in 64 bits; errors under it tell the one given.

    Raises:
        TypeError: neither an integer nor None.
    """
    if budget_bytes is None:
        yield None
        return
    if isinstance(budget_bytes, bool) or not isinstance(budget_bytes, int | np.integer):
        raise TypeError(f"budget_bytes must be an integer, got {budget_bytes!r}")
    try:
        yield min(max(0, int(budget_bytes)), (1 << 63) - 1)
    except BudgetError as error:
        least = error.minimum_bytes
        raise BudgetError(
            f"budget_bytes is {budget_bytes}, but this file needs at least {least} bytes", least
        ) from None


def lookup(pee: _core.Pee, indices: NDArray[np.int64]) -> tuple[int, int, NDArray[np.float32]]:
    """Status, offending position and rows float32 [m, dim] of contiguous ids [m]."""
    rows = np.empty((len(indices), pee.dim), dtype=np.float32)
    status, position = pee.lookup(len(indices), _address(indices), _address(rows))
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


def score_rows(
    table: NDArray[np.float32], users: NDArray[np.float32], n: int, exclude: Exclusions | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows int64 and scores float32 [num_users, n] of a contiguous table [num_rows, dim]."""
    rows = np.empty((len(users), n), dtype=np.int64)
    scores = np.empty((len(users), n), dtype=np.float32)
    indptr, excluded = exclude if exclude is not None else (None, None)
    _core.gathered_score(
        _address(table),
        len(table),
        table.shape[1],
        table.shape[1],
        0,  # no list of candidates: every row is one
        0,
        _address(users),
        len(users),
        users.shape[1],
        _address(indptr),
        _address(excluded),
        n,
        _address(scores),
        _address(rows),
    )
    return rows, scores


def score_items(
    pee: _core.Pee, user: NDArray[np.float32], ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Scores float32 [m] of contiguous ids [m] in range, for one user [dim]."""
    scores = np.empty(len(ids), dtype=np.float32)
    pee.score_items(_address(user), len(ids), _address(ids), _address(scores))
    return scores


def similar(
    pee: _core.Pee, items: NDArray[np.int64], n: int
) -> tuple[int, NDArray[np.int64], NDArray[np.float32]]:
    """Position of the first item that is not held or -1, ids int64 and cosines float32 [m, n].

    Items are contiguous ids [m] in range. Where one is not held, the arrays hold anything.
    """
    ids = np.empty((len(items), n), dtype=np.int64)
    scores = np.empty((len(items), n), dtype=np.float32)
    position = pee.similar(len(items), _address(items), n, _address(ids), _address(scores))
    return position, ids, scores


def fold_in(pee: _core.Pee, history: NDArray[np.int64]) -> tuple[NDArray[np.float32], int]:
    """A user's vector float32 [dim] from contiguous ids in range, and how many of them are held."""
    user = np.empty(pee.dim, dtype=np.float32)
    held = pee.fold_in(len(history), _address(history), _address(user))
    return user, held


def average_user(pee: _core.Pee) -> NDArray[np.float32]:
    """The vector float32 [dim] of the average user of what is held."""
    user = np.empty(pee.dim, dtype=np.float32)
    pee.average_user(_address(user))
    return user


def continue_vector(
    pee: _core.Pee, user: NDArray[np.float32], known_count: int, items: NDArray[np.int64]
) -> NDArray[np.float32]:
    """A new vector float32 [dim]: ``user`` brought up to date with contiguous ids in range."""
    fresh = user.copy()
    pee.continue_vector(known_count, len(items), _address(items), _address(fresh))
    return fresh


def choose_group(file: _core.PeelFile, user: NDArray[np.float32]) -> int:
    """The user group whose centroid is nearest to a contiguous user [dim]."""
    return file.choose_group(_address(user))
