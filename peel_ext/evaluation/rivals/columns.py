"""The plain design of the PEEL paper: blocks of columns, weighed by a row's worth."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from peel_ext.errors import BudgetError
from peel_ext.evaluation.rivals.encodings import value_kind
from peel_ext.evaluation.rivals.rival import HeldRows
from peel_ext.format import ColumnsLayout
from peel_ext.format.layout import fitting_block_dim, page_padding_bytes
from peel_ext.nn import ElasticEmbedding
from peel_ext.nn.selection import select_blocks

#: More than any table takes.
_UNLIMITED = 1 << 62


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
        bits: bits of a value, 32 as in the paper or 8.
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
        order = np.argsort(-popularity, kind="stable")
        layout = ColumnsLayout(
            block_dim=fitting_block_dim(items.shape[1]),
            value_type="float32" if bits == 32 else "int8",
            num_item_groups=min(num_item_groups, len(items)),
        )
        turned = torch.from_numpy(np.ascontiguousarray(items[order] @ self._axes))
        embedding = ElasticEmbedding.from_pretrained(turned, num_groups=len(values), layout=layout)
        embedding.set_row_values(torch.from_numpy(values[:, order]))
        self._weights, self._layout = embedding.block_weights.detach(), layout
        self._costs = embedding.block_costs()
        number = np.argsort(order)  # of each item
        self._run = embedding.item_group[0].numpy()[number]  # of each item
        with torch.no_grad(), embedding.budget(_UNLIMITED):
            self._decoded = embedding(torch.from_numpy(number), groups=0).numpy()
        self._masks: dict[int, NDArray[np.int64]] = {}

    def hold(self, budget_bytes: int, group: int) -> HeldRows:
        """The rows of a budget; see :class:`peel_ext.evaluation.rivals.Rival`."""
        layers = np.arange(self._costs.shape[1])
        held = self._held(budget_bytes)[group][:, None] >> layers & 1 == 1  # [runs, layers]
        ids = np.flatnonzero(held.any(axis=1)[self._run])
        dim = self._decoded.shape[1]
        columns = held[:, np.arange(dim) // self._layout.block_dim]  # [runs, dim]
        rows = np.where(columns[self._run[ids]], self._decoded[ids], np.float32(0))
        nbytes = int(self._costs.numpy()[held].sum()) + page_padding_bytes(int(held.sum()))
        return HeldRows(ids, rows, nbytes, axes=self._axes)

    def _held(self, budget_bytes: int) -> NDArray[np.int64]:
        """Masks of the layers that every group keeps [num_groups, num_item_groups]; made once."""
        if budget_bytes not in self._masks:
            try:
                masks = select_blocks(self._weights, self._costs, self._layout, budget_bytes, 0)
            except BudgetError as error:
                raise BudgetError(
                    f"budget_bytes is {budget_bytes}, but one block needs {error.minimum_bytes}",
                    error.minimum_bytes,
                ) from None
            self._masks[budget_bytes] = masks.numpy()
        return self._masks[budget_bytes]
