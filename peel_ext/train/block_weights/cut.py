"""The rows of a user group in pieces that the weights of their blocks multiply."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.format import Layout
from peel_ext.nn import ElasticEmbedding
from peel_ext.train.placement import to_array

#: Rows of a group that take part: more than small budgets keep.
_ROWS_PER_GROUP = 1024


@dataclass(frozen=True)
class Cut:
    """The rows that take part in a group, in pieces that the weights of their blocks multiply.

    In the planes layout a piece is what a layer adds to its row. In the columns layout, where layers
    do not overlap, the row is one piece, and every column of it has the weight of its layer.

    Attributes:
        rows: int64 [num_rows].
        item_group: int64 [num_rows].
        num_item_groups: item groups of these rows.
        pieces: [num_rows, num_layers or 1, dim].
        layer_of_column: int64 [dim] in the columns layout, else None.
    """

    rows: NDArray[np.int64]
    item_group: Tensor
    num_item_groups: int
    pieces: Tensor
    layer_of_column: Tensor | None

    def whole(self) -> Tensor:
        """The rows [num_rows, dim] with all weights 1."""
        return self.pieces.sum(dim=1)

    def weighted(self, weights: Tensor) -> Tensor:
        """The rows [num_rows, dim] under weights [num_item_groups, num_layers] of their blocks."""
        if self.layer_of_column is None:
            of_rows = weights[self.item_group][:, :, None]
        else:
            of_rows = F.embedding(self.item_group, weights[:, self.layer_of_column])[:, None]
        weighted: Tensor = (self.pieces * of_rows).sum(dim=1)
        return weighted


def cut_rows(embedding: ElasticEmbedding, group: int) -> Cut:
    """The rows of a user group that take part: in the columns layout all, whatever the group."""
    which = embedding.item_group[0 if len(embedding.item_group) == 1 else group]
    rows, count = choose_rows(which, embedding.block_weights.shape[1], embedding.layout)
    turned = embedding.rotate(embedding.weight.detach()[rows])
    return cut_vectors(rows, which[rows], count, turned, embedding.layout)


def choose_rows(item_group: Tensor, num_item_groups: int, layout: Layout) -> tuple[Tensor, int]:
    """The rows int64 [num_rows] of a user group that take part, and how many item groups are theirs.

    Args:
        item_group: [num_items], the item group of each row.
        num_item_groups: item groups.
        layout: layout of the blocks.
    """
    sizes = torch.bincount(item_group, minlength=num_item_groups)
    count = int((sizes.cumsum(0) <= max(_ROWS_PER_GROUP, int(sizes[0]))).sum())
    if not layout.nested:
        count = num_item_groups
    return (item_group < count).nonzero()[:, 0], count


def cut_vectors(
    rows: Tensor, item_group: Tensor, num_item_groups: int, vectors: Tensor, layout: Layout
) -> Cut:
    """Cuts the vectors [num_rows, dim], as a device has them, of rows that take part.

    Args:
        rows: int64 [num_rows].
        item_group: [num_rows].
        num_item_groups: item groups of these rows.
        vectors: [num_rows, dim].
        layout: layout of the blocks.
    """
    layer_of_column = None
    if not layout.nested:
        layer_of_column = torch.arange(vectors.shape[1], device=rows.device) // layout.block_dim
    pieces = torch.from_numpy(_row_pieces(layout, to_array(vectors))).to(rows.device)
    return Cut(to_array(rows), item_group.long(), num_item_groups, pieces, layer_of_column)


def _row_pieces(layout: Layout, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cuts rows [n, dim] as a device has them into pieces to be weighted, [n, num_pieces, dim].

    Planes layout: what every layer adds to its row. Columns layout: the row itself.
    """
    dim = rows.shape[1]
    store, scales = layout.encode(rows)
    if not layout.nested:
        return layout.decode(store, scales, -1, dim)[:, None]
    pieces = np.empty((len(rows), layout.num_layers(dim), dim), dtype=np.float32)
    below = np.zeros_like(rows)
    for layer in range(pieces.shape[1]):
        decoded = layout.decode(store, scales, (1 << (layer + 1)) - 1, dim)
        pieces[:, layer] = decoded - below
        below = decoded
    return pieces
