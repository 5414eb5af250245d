"""The most popular items, of everybody or of the user group, in float32 or in few bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from peel_ext.errors import BudgetError
from peel_ext.evaluation.rivals.encodings import Encoding, index_bytes
from peel_ext.evaluation.rivals.rival import HeldRows


class PopularRows:
    """Holds as many of the most popular rows as fit.

    Args:
        order: the items, the most popular first (:func:`order_items`), [num_items], or
            [num_groups, num_items] for a table per user group.
        decoded: for each encoding in use what it makes of every row, float32 [num_items, dim]; the
            first fills ``first_share`` of the budget with the most popular rows, the second the rest.
        first_share: 1 for one encoding.
    """

    def __init__(
        self,
        order: NDArray[np.int64],
        decoded: list[tuple[Encoding, NDArray[np.float32]]],
        first_share: float = 1.0,
    ) -> None:
        self.per_group = order.ndim == 2
        self.family = "group popularity" if self.per_group else "global popularity"
        names = [encoding.name for encoding, _ in decoded]
        self.name = names[0] if len(names) == 1 else f"{first_share:.0%} {names[0]}, {names[1]}"
        self._order = np.atleast_2d(order)
        self._decoded = decoded
        self._first_share = first_share

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """The rows of a budget; see :class:`peel_ext.evaluation.rivals.Rival`."""
        order = self._order[group if self.per_group else 0]
        num_items, dim = self._decoded[0][1].shape
        parts: list[tuple[int, int]] = []  # rows and bytes of a row, of each encoding
        pieces = []
        start = 0
        for at, (encoding, decoded) in enumerate(self._decoded):
            share = self._first_share if at == 0 else 1.0
            width = encoding.row_bytes(dim)
            count = _most_rows(int(budget_bytes * share), parts, width, num_items)
            chosen = order[start : start + count]
            pieces.append(decoded[chosen])
            parts.append((len(chosen), width))
            start += len(chosen)
        if start == 0:
            minimum = min(encoding.row_bytes(dim) for encoding, _ in self._decoded)
            minimum += index_bytes(1, num_items)
            raise BudgetError(
                f"budget_bytes is {budget_bytes}, but one row needs {minimum}", minimum
            )
        ascending = np.argsort(order[:start])
        rows = np.concatenate(pieces)[ascending]
        return HeldRows(order[:start][ascending], rows, _total(parts, num_items))


def order_items(popularity: NDArray[np.float64]) -> NDArray[np.int64]:
    """The items of each line [..., num_items], the most popular first, of equals the lower id."""
    return np.argsort(-popularity, axis=-1, kind="stable")


def _total(parts: list[tuple[int, int]], num_items: int) -> int:
    held = sum(count for count, _ in parts)
    return sum(count * width for count, width in parts) + index_bytes(held, num_items)


def _most_rows(budget_bytes: int, before: list[tuple[int, int]], width: int, num_items: int) -> int:
    """The largest number of further rows of a width that fits beside those before."""
    low, high = 0, num_items - sum(count for count, _ in before)
    if _total([*before, (high, width)], num_items) <= budget_bytes:
        return high  # all rows, which need no ids
    while low < high:
        middle = (low + high + 1) // 2
        if _total([*before, (middle, width)], num_items) <= budget_bytes:
            low = middle
        else:
            high = middle - 1
    return low
