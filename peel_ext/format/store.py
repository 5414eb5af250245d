"""The encoded tables of all user groups, as a server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peel_ext.format.layout import Layout


@dataclass(frozen=True)
class BlockStore:
    """Encoded rows and which of their blocks each user group holds.

    The fields are tensors; this module imports no tensor library.

    Attributes:
        layout: how rows are cut into blocks.
        store: uint8 [num_embeddings + num_refined, row_bytes].
        scales: float16 [num_embeddings + num_refined, scales_per_row].
        item_group: int32 [num_groups, num_embeddings], or [1, num_embeddings] when all user groups
            share it; -1 for rows in none.
        held: int64 [num_groups, num_item_groups], masks of the layers held.
        centroids: float32 [510], :func:`peel_ext.format.quantizer.centroid_table`.
        rotation: float32 [dim, dim] or None; decoded rows x become ``rotation @ x``.
    """

    layout: Layout
    store: Any
    scales: Any
    item_group: Any
    held: Any
    centroids: Any
    rotation: Any = None
