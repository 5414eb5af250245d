"""The interface of a rival: another way to make an item table small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class HeldRows:
    """The rows that a device would hold of the item table, decoded.

    Attributes:
        ids: int64 [m], the items held, ascending.
        rows: float32 [m, width], theirs.
        nbytes: bytes of values, scales, codebooks and ids; rivals are charged no header.
        axes: float32 [dim, width], orthonormal columns; the rows of the items' space are
            ``rows @ axes.T``. None where they are in it.
        vectors: float32 [num_users, dim] of the audience where its space is another one.
    """

    ids: NDArray[np.int64]
    rows: NDArray[np.float32]
    nbytes: int
    axes: NDArray[np.float32] | None = None
    vectors: NDArray[np.float32] | None = None

    def decoded(self) -> NDArray[np.float32]:
        """The rows float32 [m, dim] in the space of the items."""
        return self.rows if self.axes is None else self.rows @ self.axes.T


class Rival(Protocol):
    """One way, with its options settled.

    Attributes:
        family: rivals of one kind, of which a table shows the best.
        name: this one.
        per_group: whether each user group has a table of its own.
    """

    family: str
    name: str
    per_group: bool

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """Makes what is held under a budget, by a group where that matters.

        Raises:
            BudgetError: too few bytes; names the minimum.
        """
