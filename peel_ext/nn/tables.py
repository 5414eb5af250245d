"""The tables that eager lookups read, kept until what they were made of changes."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from peel_ext.nn.tensor_cache import Marks
from peel_ext.ops.lookup import Table

#: Tables of one module; each budget has one.
_MOST = 16


class Sources(NamedTuple):
    """The tensors that a table is made of; without a budget the first three."""

    weight: Tensor
    refinement: Tensor | None
    refinement_slot: Tensor | None
    rotation: Tensor | None = None
    block_weights: Tensor | None = None
    item_group: Tensor | None = None


class Kept:
    """A table beside what it was made of.

    Attributes:
        table: the table.
    """

    __slots__ = ("_marks", "_sources", "table")

    def __init__(self, table: Table, sources: Sources) -> None:
        self.table = table
        self._sources = sources
        self._marks = Marks(*sources)

    def is_of(self, module: Any, weight: Tensor) -> bool:
        """True if it was made of the tensors that a module has, and none of them has changed since.

        Asked at every lookup, hence at some length.

        Args:
            module: the embedding.
            weight: its weight.
        """
        own, refinement, slots, rotation, block_weights, item_group = self._sources
        buffers = module._buffers
        # Gradients go to the Parameters themselves: the same memory is not enough.
        if (
            weight is not own
            or module._parameters["refinement"] is not refinement
            or buffers["refinement_slot"] is not slots
        ):
            return False
        if block_weights is not None and (
            buffers["block_weights"] is not block_weights
            or buffers["item_group"] is not item_group
            or buffers["rotation"] is not rotation
        ):
            return False
        return self._marks.are_current()


class Tables:
    """The table of every budget asked for last, and that of none.

    A CUDA graph reads the memory of its capture at every replay. So a table that was looked up in
    while one was captured lives as long as this does.

    Attributes:
        kept: by budget, of whatever they were made.
    """

    __slots__ = ("_in_graphs", "kept")

    def __init__(self) -> None:
        self.kept: dict[int | None, Kept] = {}
        self._in_graphs: list[Table] = []

    def keep(self, budget_bytes: int | None, made: Kept, module: Any) -> None:
        """Keeps the table of a budget; what others were made of goes where that has changed."""
        kept = {
            budget: other
            for budget, other in self.kept.items()
            if budget != budget_bytes and other.is_of(module, made.table.weight)
        }
        while len(kept) >= _MOST:
            kept.pop(next(iter(kept)))
        kept[budget_bytes] = made
        self._replace(kept)

    def forget(self) -> None:
        """Lets all go that no graph reads."""
        self._replace({})

    def pin(self, table: Table) -> None:
        """Keeps a table that is found by nobody, for the graph that it was made for."""
        self._in_graphs.append(table)

    def _replace(self, kept: dict[int | None, Kept]) -> None:
        for budget_bytes, other in self.kept.items():
            if kept.get(budget_bytes) is not other and other.table.is_in_graph():
                self.pin(other.table)
        self.kept = kept
