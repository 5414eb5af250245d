"""Fewer dimensions for every item: cut from the model, or trained anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import BudgetError
from peel_ext.evaluation.rivals.encodings import quantise, value_kind
from peel_ext.evaluation.rivals.rival import HeldRows


class PrincipalDimensions:
    """Holds every row in as many of its leading principal dimensions as fit.

    The dimensions are those of the second moment of the rows, so that what is cut is least in the
    squared error of the rows; scores need no mean. Codes have one scale a column.
    """

    family = "smaller dimension (PCA)"
    per_group = False

    def __init__(self, items: NDArray[np.float32], bits: int) -> None:
        self.name = value_kind(bits)
        self._bits = bits
        moment = items.T.astype(np.float64) @ items
        self._axes = np.linalg.eigh(moment)[1][:, ::-1].astype(np.float32)  # [dim, dim]
        self._coded = _coded(items @ self._axes, bits)  # each column by itself: for any number

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """The rows of a budget; see :class:`peel_ext.evaluation.rivals.Rival`."""
        num_items, full_dim = self._coded.shape
        dim, nbytes = affordable_dim(budget_bytes, num_items, full_dim, self._bits)
        return HeldRows(
            np.arange(num_items), self._coded[:, :dim], nbytes, axes=self._axes[:, :dim]
        )


class TrainedDimensions:
    """Holds every row of a model that was trained with as many dimensions as fit.

    Args:
        train: makes user vectors of the audience and item rows, float32 [num_users, dim] and
            [num_items, dim], of a number of dimensions.
        num_items: rows.
        max_dim: never more dimensions than this, and never fewer than 2: one of them is the prior's.
        bits: bits of a value, 32, 8 or 4; codes have one scale a column.
    """

    family = "smaller dimension (retrained)"
    per_group = False

    def __init__(
        self,
        train: Callable[[int], tuple[NDArray[np.float32], NDArray[np.float32]]],
        num_items: int,
        max_dim: int,
        bits: int,
    ) -> None:
        self.name = value_kind(bits)
        self._train, self._num_items = train, num_items
        self._max_dim, self._bits = max_dim, bits

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """The rows of a budget; see :class:`peel_ext.evaluation.rivals.Rival`."""
        dim, nbytes = affordable_dim(
            budget_bytes, self._num_items, self._max_dim, self._bits, min_dim=2
        )
        vectors, items = self._train(dim)
        rows = _coded(items, self._bits)
        return HeldRows(np.arange(self._num_items), rows, nbytes, vectors=vectors)


def _coded(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    return values if bits == 32 else quantise(values, bits, axis=0)


def affordable_dim(
    budget_bytes: int, num_items: int, max_dim: int, bits: int, min_dim: int = 1
) -> tuple[int, int]:
    """The largest number of dimensions of all rows that fits a budget, and its bytes.

    Raises:
        BudgetError: not even ``min_dim`` dimensions fit; names the minimum.
    """

    def nbytes(dim: int) -> int:
        return (num_items * dim * bits + 7) // 8 + (2 * dim if bits < 32 else 0)

    fitting = [dim for dim in range(min_dim, max_dim + 1) if nbytes(dim) <= budget_bytes]
    if not fitting:
        dimensions = "one dimension" if min_dim == 1 else f"{min_dim} dimensions"
        raise BudgetError(
            f"budget_bytes is {budget_bytes}, but {dimensions} of {num_items} rows "
            f"need{'s' * (min_dim == 1)} {nbytes(min_dim)}",
            nbytes(min_dim),
        )
    return fitting[-1], nbytes(fitting[-1])
