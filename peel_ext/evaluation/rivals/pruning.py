"""Magnitude pruning: the largest values of the table, wherever they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import BudgetError
from peel_ext.evaluation.rivals.encodings import quantise, value_kind
from peel_ext.evaluation.rivals.rival import HeldRows


class LargestValues:
    """Holds as many of the values largest in magnitude as fit, with their places.

    Places are stored in the cheapest of three ways: a bitmap of the table, a count for each row and
    a column for each value, or the same with only the rows that have any and their ids. Codes have
    one scale in all. In the principal axes values concentrate, so few of them say more.
    """

    family = "magnitude pruning"
    per_group = False

    def __init__(self, items: NDArray[np.float32], bits: int, principal: bool) -> None:
        kind = value_kind(bits)
        self.name = f"{kind} in principal axes" if principal else kind
        self._bits = bits
        self._axes: NDArray[np.float32] | None
        self._values, self._axes = items, None
        if principal:
            moment = items.T.astype(np.float64) @ items
            self._axes = np.linalg.eigh(moment)[1].astype(np.float32)
            self._values = items @ self._axes
        self._order = np.argsort(-np.abs(self._values), axis=None, kind="stable")
        first = np.unique(self._order // items.shape[1], return_index=True)[1]
        self._rows_seen = np.cumsum(np.bincount(first, minlength=items.size))

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """The rows of a budget; see :class:`peel_ext.evaluation.rivals.Rival`."""
        low, high = 0, self._values.size
        while low < high:
            middle = (low + high + 1) // 2
            if self._nbytes(middle) <= budget_bytes:
                low = middle
            else:
                high = middle - 1
        if low == 0:
            minimum = self._nbytes(1)
            raise BudgetError(
                f"budget_bytes is {budget_bytes}, but one value needs {minimum}", minimum
            )
        flat = self._order[:low]
        values = self._values.ravel()[flat]
        if self._bits < 32:
            values = quantise(values[None], self._bits, axis=1)[0]
        kept = np.zeros(self._values.size, dtype=np.float32)
        kept[flat] = values
        held = np.flatnonzero(np.bincount(flat // self._values.shape[1]))
        rows = kept.reshape(self._values.shape)[held]
        return HeldRows(held, rows, self._nbytes(low), axes=self._axes)

    def _nbytes(self, count: int) -> int:
        """Bytes of the largest ``count`` values."""
        num_items, dim = self._values.shape
        id_width = 2 if num_items <= 1 << 16 else 4
        column_width = 1 if dim <= 256 else 2
        rows = int(self._rows_seen[count - 1])
        bitmap = (self._values.size + 7) // 8
        counted = column_width * (num_items + count)
        listed = (id_width + column_width) * rows + column_width * count
        values = (count * self._bits + 7) // 8 + (2 if self._bits < 32 else 0)
        return values + min(bitmap, counted, listed)
