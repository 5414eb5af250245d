"""The tables that eager lookups read, kept until what they were made of changes."""

from __future__ import annotations

from torch import Tensor

from peel_ext.nn.tensor_cache import Marks
from peel_ext.ops.lookup import Table

#: Tables of one module; each budget has one.
_MOST = 16


class Kept:
    """A table beside what it was made of.

    Gradients go to the Parameters themselves, so that the same memory is not enough: whoever finds
    a table asks whether its sources are still these very tensors.

    Attributes:
        table: the table.
        sources: weight, refinement and its slots; under a budget rotation, block weights and item
            groups, too.
    """

    __slots__ = ("_marks", "refined", "shape", "sources", "table")

    def __init__(self, table: Table, sources: tuple[Tensor | None, ...]) -> None:
        self.table = table
        self.sources = sources
        self.shape = table.weight.shape
        self.refined = None if table.refinement is None else table.refinement.shape
        self._marks = Marks(*sources)

    def is_current(self) -> bool:
        """True if torch has counted no change of the sources."""
        if not self._marks.are_current():
            return False
        table = self.table
        # A view of the same memory may have taken the place of a whole.
        return table.weight.shape == self.shape and (
            table.refinement is None or table.refinement.shape == self.refined
        )


class Tables:
    """The table of every budget asked for last, and that of none."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[int | None, Kept] = {}

    def get(self, budget_bytes: int | None) -> Kept | None:
        """The table kept for a budget, of whatever it was made."""
        return self._kept.get(budget_bytes)

    def keep(
        self, budget_bytes: int | None, sources: tuple[Tensor | None, ...], table: Table
    ) -> None:
        """Keeps the table of a budget; with it goes what others were made of that has changed.

        What was made of inference tensors is not kept, for torch counts none of their changes.
        """
        if any(source is not None and source.is_inference() for source in sources):
            self._kept = {}
            return
        kept = {
            budget: other
            for budget, other in self._kept.items()
            if other.is_current() and other.table.weight is table.weight
        }
        kept.pop(budget_bytes, None)
        while len(kept) >= _MOST:
            kept.pop(next(iter(kept)))
        kept[budget_bytes] = Kept(table, sources)
        self._kept = kept
