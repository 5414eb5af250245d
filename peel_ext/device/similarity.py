"""Items most like given ones, by the cosine of their rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Upper limit of one matrix of rows, or of cosines, in float64.
_BLOCK_BYTES = 4 * 2**20

#: Items whose cosines are computed together.
_CHUNK_ITEMS = 256


def similar_rows(
    table: NDArray[np.floating], indices: ArrayLike, n: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The n rows of a table with the largest cosine ``<a, b> / (|a| |b|)`` to each of some rows.

    Sums are of float64, rounded to float32 once. A row of zeros has cosine 0 with all. Some rows are
    looked at together, so that memory beyond copies of the result does not grow with the table.

    Args:
        table: float32 [num_rows, dim], every value finite.
        indices: integers [m] in [0, num_rows).
        n: rows to return for each, from 1 to 2^31 - 1.

    Returns:
        ids int64 and cosines float32, both [m, n], in descending cosine, equal ones by ascending id,
        without the row itself; -1 and -inf where the table has fewer others.

    Raises:
        TypeError: a table that is not floating point, or indices that are not integers.
        ValueError: a wrong shape, n out of range, or a row that is not finite.
        IndexError: an index out of range.
    """
    rows = np.asarray(table)
    if rows.dtype.kind != "f":
        raise TypeError(f"table must be floating point, got {rows.dtype}")
    if rows.ndim != 2:
        raise ValueError(f"table must have 2 dimensions, got shape {rows.shape}")
    items = check_indices(indices, len(rows))
    count = check_count(n)
    ids = np.full((len(items), count), -1, dtype=np.int64)
    scores = np.full((len(items), count), -np.inf, dtype=np.float32)
    for start in range(0, len(items), _CHUNK_ITEMS):
        chunk = slice(start, start + _CHUNK_ITEMS)
        _find_best(rows, items[chunk], ids[chunk], scores[chunk])
    return ids, scores


def check_indices(indices: ArrayLike, num_rows: int) -> NDArray[np.int64]:
    """Contiguous ids int64 [m] in [0, num_rows).

    Raises:
        TypeError: ids that are not integers.
        ValueError: another shape.
        IndexError: an id out of range.
    """
    ids = np.asarray(indices)
    if ids.ndim != 1:
        raise ValueError(f"indices must have 1 dimension, got shape {ids.shape}")
    if ids.size and ids.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, got {ids.dtype}")
    outside = (ids < 0) | (ids >= num_rows)
    if outside.any():
        raise IndexError(
            f"indices contain {ids[np.argmax(outside)]}, expected ids in [0, {num_rows})"
        )
    return np.ascontiguousarray(ids, dtype=np.int64)


def check_count(n: int) -> int:
    """Checks a number of rows to return, from 1 to 2^31 - 1; ValueError for anything else."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n < 1 << 31:
        raise ValueError(f"n must be an integer from 1 to 2147483647, got {n!r}")
    return int(n)


def _find_best(
    rows: NDArray[np.floating],
    items: NDArray[np.int64],
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """Writes the best rows of some items to ids and scores [m, n], which hold -1 and -inf."""
    own = rows[items].astype(np.float64)  # [m, dim]
    own_lengths = np.linalg.norm(own, axis=1)  # [m]
    step = max(1, _BLOCK_BYTES // (8 * max(1, rows.shape[1], len(items))))
    for first in range(0, len(rows), step):
        block = rows[first : first + step].astype(np.float64)  # [b, dim]
        if not np.isfinite(block).all():
            bad = int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise ValueError(f"table[{first + bad}] must be finite, got {rows[first + bad]}")
        lengths = own_lengths[:, None] * np.linalg.norm(block, axis=1)  # [m, b]
        # As in fold_in.py: BLAS may raise the flag of an invalid operation for finite matrices.
        with np.errstate(invalid="ignore"):
            dots = own @ block.T  # [m, b]
        cosines = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
        found = cosines.astype(np.float32)
        inside = (items >= first) & (items < first + len(block))
        found[np.flatnonzero(inside), items[inside] - first] = -np.inf
        names = np.broadcast_to(np.arange(first, first + len(block)), found.shape)
        _merge(ids, scores, names, found)


def _merge(
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
    new_ids: NDArray[np.int64],
    new_scores: NDArray[np.float32],
) -> None:
    """Takes rows of higher ids [m, b] into the best so far [m, n]."""
    every = np.concatenate([scores, new_scores], axis=1)
    names = np.concatenate([ids, new_ids], axis=1)
    order = np.argsort(-every, axis=1, kind="stable")[:, : ids.shape[1]]
    scores[:] = np.take_along_axis(every, order, axis=1)
    ids[:] = np.where(np.isneginf(scores), -1, np.take_along_axis(names, order, axis=1))
