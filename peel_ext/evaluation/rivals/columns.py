"""The plain design of the PEEL paper: blocks of columns, weighed by a row's worth."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.errors import BudgetError
from peel_ext.evaluation.rivals.encodings import value_kind
from peel_ext.evaluation.rivals.rival import HeldRows
from peel_ext.format import ColumnsLayout
from peel_ext.nn import ElasticEmbedding


class ColumnBlocks:
    """Holds blocks of (run of items, 8 adjacent columns) with the largest weight per byte.

    Given its best chances: columns are principal dimensions, the largest first, and items are
    numbered by popularity, so that runs of them are alike in worth and need no ids. Bytes are those
    of the packed blocks, with their entries and alignment but without the header and directory that
    no other rival is charged.

    Args:
        items: float32 [num_items, dim].
        popularity: [num_items], by which items are numbered.
        values: worth of each row to each user group, [num_groups, num_items].
        weighted_by: what the worth is, as it is shown.
        num_item_groups: runs of items.
        bits: of a value, 32 as in the paper or 8.
    """

    family = "column blocks (PEEL, plain)"
    per_group = True

    def __init__(
        self,
        items: NDArray[np.float32],
        popularity: NDArray[np.float64],
        values: NDArray[np.float64],
        weighted_by: str,
        num_item_groups: int,
        bits: int,
    ) -> None:
        kind = value_kind(bits)
        self.name = f"{kind}, {num_item_groups} item groups, {weighted_by}"
        moment = items.T.astype(np.float64) @ items
        self._axes = np.linalg.eigh(moment)[1][:, ::-1].astype(np.float32)
        self._order = np.argsort(-popularity, kind="stable")
        layout = ColumnsLayout(
            block_dim=min(8, items.shape[1]),
            value_type="float32" if bits == 32 else "int8",
            num_item_groups=min(num_item_groups, len(items)),
        )
        turned = torch.from_numpy(np.ascontiguousarray(items[self._order] @ self._axes))
        self._embedding = ElasticEmbedding.from_pretrained(
            turned, num_groups=len(values), layout=layout
        )
        self._embedding.set_row_values(torch.from_numpy(values[:, self._order]))
        self._free = layout.overhead_bytes(layout.num_item_groups, len(items), listed=False)

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """The rows of a budget; see :class:`peel_ext.evaluation.rivals.Rival`."""
        try:
            pee = self._embedding.generate(group, budget_bytes + self._free)
        except BudgetError as error:
            minimum = error.minimum_bytes - self._free
            raise BudgetError(
                f"budget_bytes is {budget_bytes}, but one block needs {minimum}", minimum
            ) from None
        rows = np.zeros((len(self._order), len(self._axes)), dtype=np.float32)
        rows[self._order] = pee.lookup(np.arange(len(self._order))) @ self._axes.T
        return HeldRows(np.sort(self._order[pee.row_ids]), rows, pee.nbytes - self._free)
