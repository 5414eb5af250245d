"""Computing a user's vector from the items in its history."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def fold_in_mean(rows: ArrayLike) -> NDArray[np.float32]:
    """The normalised mean of the unit vectors of a history.

    Args:
        rows: [m, dim], the vectors of the history's items; zero rows (items not held) count for
            nothing.

    Returns:
        float32 [dim], of length 1, or zero when there is nothing to average.

    Raises:
        ValueError: rows that are not a matrix, or not finite.
    """
    matrix = np.asarray(rows, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"rows must have 2 dimensions, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        bad = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(f"rows[{bad}] must be finite, got {matrix[bad]}")
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    units = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    mean = units.sum(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > 0 else mean
