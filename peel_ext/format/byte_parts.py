"""The bytes of a Personalized Elastic Embedding by what they are spent on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from peel_ext.format.layout import (
    DIRECTORY_BLOCK_BYTES,
    DIRECTORY_ITEM_GROUP_BYTES,
    ENTRY_BYTES,
    HEADER_BYTES,
    Layout,
    id_bytes,
    page_padding_bytes,
)


class ByteParts(NamedTuple):
    """Bytes held with the first k blocks, for every k: all int64 [num_blocks + 1].

    Attributes:
        values: the layers of the rows.
        ids: which rows they are.
        scales: scales of the values.
        directory: header, entries of blocks, row counts, and what opening them builds.
        padding: up to the boundaries that blocks and pages begin at.
    """

    values: NDArray[np.int64]
    ids: NDArray[np.int64]
    scales: NDArray[np.int64]
    directory: NDArray[np.int64]
    padding: NDArray[np.int64]

    @property
    def total(self) -> NDArray[np.int64]:
        """All of them: what a budget is compared with, int64 [num_blocks + 1]."""
        return np.sum(self, axis=0)


def split_bytes(
    layout: Layout,
    sizes: NDArray[np.int64],
    order: NDArray[np.int64],
    dim: int,
    num_embeddings: int,
    *,
    listed: bool = False,
) -> ByteParts:
    """Splits the bytes of every prefix of the blocks of a user group.

    Args:
        layout: layout of the blocks.
        sizes: rows of each item group [num_item_groups].
        order: ``item_group * num_layers + layer`` of the blocks in the order in which budgets take
            them [num_blocks].
        dim: values of a row.
        num_embeddings: rows of the full table.
        listed: whether item groups are given ones, whose ids stand before the blocks.
    """
    num_layers = layout.num_layers(dim)
    item_group, layer = np.divmod(order, num_layers)
    rows = sizes[item_group]
    pieces = np.array([layout.piece_bytes(each, dim) for each in range(num_layers)], dtype=np.int64)
    first = layer == 0  # brings ids and scales where layers need those below them
    ids = rows * id_bytes(num_embeddings) * first * layout.nested
    scales = rows * 2 * ((first if layout.nested else True) & layout.scaled)
    directory = np.full(len(order), ENTRY_BYTES + DIRECTORY_BLOCK_BYTES, dtype=np.int64)
    directory += DIRECTORY_ITEM_GROUP_BYTES * (first & layout.nested)
    fixed_ids, fixed = 0, HEADER_BYTES
    if not layout.nested:
        fixed_ids = num_embeddings * id_bytes(num_embeddings) if listed else 0
        fixed += 4 + len(sizes) * (4 + DIRECTORY_ITEM_GROUP_BYTES)
    parts = (
        _running_sum(0, rows * pieces[layer]),
        _running_sum(fixed_ids, ids),
        _running_sum(0, scales),
        _running_sum(fixed, directory),
    )
    costs = layout.block_costs(sizes, dim, num_embeddings).reshape(-1)[order]
    pages = [page_padding_bytes(count) for count in range(len(order) + 1)]
    overhead = layout.overhead_bytes(len(sizes), num_embeddings, listed)
    padding = _running_sum(overhead, costs) + np.array(pages) - np.sum(parts, axis=0)
    return ByteParts(*parts, padding)


def _running_sum(start: int, each: NDArray[np.int64]) -> NDArray[np.int64]:
    return start + np.concatenate([[0], np.cumsum(each)]).astype(np.int64)
