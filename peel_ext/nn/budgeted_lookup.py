"""Rows as they are under a byte budget, encoded and selected only when something has changed.

In eager mode :class:`peel_ext.nn.ElasticEmbedding` calls the functions here. What is traced by
torch.compile, torch.export or torch.func cannot look into tensors, so there the same two steps are
registered ops, which do at run time what eager mode does at the call.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from peel_ext.format import ColumnsLayout, Layout, PlanesLayout
from peel_ext.format.quantizer import centroid_table
from peel_ext.format.store import BlockStore
from peel_ext.nn.derived import Derived, derive
from peel_ext.nn.selection import block_costs, overhead_bytes, select_blocks
from peel_ext.ops.grouped_lookup import LookupTable, register_shapes

_Owner = dict[Any, Derived]


@lru_cache(maxsize=1)
def centroids() -> Tensor:
    """The reconstruction values of all widths, float32 [510]."""
    return torch.from_numpy(centroid_table().copy())


def layout_text(layout: Layout) -> str:
    """A layout as an argument of an op: JSON of its name and options."""
    return json.dumps({"name": layout.name, **asdict(layout)})


@lru_cache(maxsize=64)
def _layout_of(text: str) -> Layout:
    options = json.loads(text)
    return {"planes": PlanesLayout, "columns": ColumnsLayout}[options.pop("name")](**options)


def encoded_rows(
    weight: Tensor,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    rotation: Tensor | None,
    layout: Layout,
    owner: _Owner | None = None,
) -> tuple[Tensor, Tensor]:
    """Store and scales of all rows and then all refined rows, as :class:`BlockStore` has them.

    Args:
        weight: float32 [num_embeddings, dim].
        refinement: float32 [num_refined, dim] or None.
        refinement_slot: int32 [num_groups, num_embeddings] or None.
        rotation: float32 [dim, dim] or None.
        layout: of the blocks.
        owner: keeps the encoding until one of the tensors changes.

    Raises:
        TypeError: a weight that is not float32.
        ValueError: a weight that is not on the CPU, or not finite.
    """
    if weight.dtype != torch.float32:
        raise TypeError(f"weight must be float32 to be encoded, got {weight.dtype}")
    if weight.device.type != "cpu":
        raise ValueError(f"weight must be on the CPU to be encoded, got {weight.device}")
    sources = (weight, refinement, refinement_slot, rotation)

    @torch.no_grad()
    def encode() -> tuple[Tensor, Tensor]:
        rows = weight.detach()
        if refinement is not None and refinement_slot is not None:
            owners = refinement.new_zeros(len(refinement), dtype=torch.int64)
            group, item = (refinement_slot >= 0).nonzero(as_tuple=True)
            owners[refinement_slot[group, item].long()] = item
            rows = torch.cat([rows, rows[owners] + refinement])
        if rotation is not None:
            with torch.autocast("cpu", enabled=False):
                rows = rows @ rotation
        store, scales = layout.encode(rows.numpy())
        return torch.from_numpy(store), torch.from_numpy(scales)

    return derive(("encoded_rows", layout), sources, encode, owner)


def held_blocks(
    block_weights: Tensor,
    item_group: Tensor,
    layout: Layout,
    dim: int,
    budget_bytes: int,
    owner: _Owner | None = None,
) -> Tensor:
    """Masks of the layers a budget keeps, int64 [num_groups, num_item_groups].

    Args and errors are those of :func:`peel_ext.nn.selection.select_blocks` and ``block_costs``.
    """

    def select() -> Tensor:
        costs = block_costs(item_group, layout, dim)
        overhead = overhead_bytes(item_group, layout, block_weights.shape[1])
        return select_blocks(block_weights.detach(), costs, layout, budget_bytes, overhead)

    kind = ("held_blocks", layout, dim, budget_bytes)
    return derive(kind, (block_weights, item_group), select, owner)


@torch.library.custom_op("peel_ext::held_blocks", mutates_args=(), device_types="cpu")
def _held_blocks_op(
    block_weights: Tensor, item_group: Tensor, layout: str, dim: int, budget_bytes: int
) -> Tensor:
    # An op's result is the caller's to overwrite.
    return held_blocks(block_weights, item_group, _layout_of(layout), dim, budget_bytes).clone()


@_held_blocks_op.register_fake
def _(block_weights: Tensor, *_: Any) -> Tensor:
    return block_weights.new_empty(block_weights.shape[:2], dtype=torch.int64)


@torch.library.custom_op("peel_ext::budgeted_lookup", mutates_args=(), device_types="cpu")
def _budgeted_lookup_op(
    weight: Tensor,
    indices: Tensor,
    groups: Tensor | None,
    group: int,
    num_groups: int,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    rotation: Tensor | None,
    item_group: Tensor,
    held: Tensor,
    layout: str,
) -> Tensor:
    parts = (weight, refinement, refinement_slot, rotation, _layout_of(layout))
    blocks = BlockStore(parts[-1], *encoded_rows(*parts), item_group, held, centroids(), rotation)
    table = LookupTable(
        weight, refinement=refinement, refinement_slot=refinement_slot, blocks=blocks,
        num_groups=num_groups,
    )  # fmt: skip
    groups = None if groups is None else groups.contiguous()
    return table.gather(indices.contiguous(), groups, group)


register_shapes(_budgeted_lookup_op)


def budgeted_lookup(
    weight: Tensor,
    pairs: tuple[Tensor, Tensor | None, int],
    num_groups: int,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    rotation: Tensor | None,
    block_weights: Tensor,
    item_group: Tensor,
    layout: str,
    budget_bytes: int,
) -> tuple[Tensor, Tensor]:
    """Decoded rows [m, dim] of traced pairs, without a gradient, and the masks of what is held."""
    held = _held_blocks_op(
        block_weights.detach(), item_group, layout, weight.shape[1], budget_bytes
    )
    rows: Tensor = _budgeted_lookup_op(
        weight.detach(), *pairs, num_groups,
        None if refinement is None else refinement.detach(), refinement_slot,
        rotation, item_group, held, layout,
    )  # fmt: skip
    return rows, held
