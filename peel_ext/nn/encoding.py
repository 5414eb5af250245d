"""The blocks a byte budget keeps, encoded and selected only when something has changed.

In eager mode :class:`BudgetedBlocks` makes a :class:`BlockStore` of them. What is traced by
torch.compile, torch.export or torch.func cannot look into tensors, so there the same two steps are
registered ops, which do at run time what eager mode does at the call.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.format import ColumnsLayout, Layout, PlanesLayout
from peel_ext.format.quantizer import level_table
from peel_ext.nn.device_encoding import encode_on_device
from peel_ext.nn.selection import block_costs, overhead_bytes, select_blocks
from peel_ext.nn.tensor_cache import TensorCache, derive
from peel_ext.ops.lookup import BlockStore, Mask, Pairs, Table, gather, geometry_of, register_shapes

_LINE_BYTES = 64  # of a cache


@lru_cache(maxsize=8)
def levels_on(device: torch.device) -> Tensor:
    """The reconstruction values of all widths, float32 [510]."""
    return torch.from_numpy(level_table().copy()).to(device)


def layout_text(layout: Layout) -> str:
    """A layout as an argument of an op: JSON of its name and options."""
    return json.dumps({"name": layout.name, **asdict(layout)})


@lru_cache(maxsize=64)
def _layout_of(text: str) -> Layout:
    options = json.loads(text)
    return {"planes": PlanesLayout, "columns": ColumnsLayout}[options.pop("name")](**options)


class Rows(NamedTuple):
    """All rows there are to encode: those of ``weight``, then those that groups refined."""

    weight: Tensor  # float32 [num_embeddings, dim]
    refinement: Tensor | None  # float32 [num_refined, dim]
    refinement_slot: Tensor | None  # int32 [num_groups, num_embeddings], rows of refinement or -1
    rotation: Tensor | None  # float32 [dim, dim], into the space in which rows are encoded

    def encoded(self, layout: Layout, cache: TensorCache | None = None) -> tuple[Tensor, Tensor]:
        """Store and scales, as :class:`BlockStore` has them.

        Args:
            layout: layout of the blocks.
            cache: keeps the encoding until one of the tensors changes.

        Raises:
            TypeError: a weight that is not float32.
            ValueError: a weight that is not finite.
        """
        if self.weight.dtype != torch.float32:
            raise TypeError(f"weight must be float32 to be encoded, got {self.weight.dtype}")
        keep = derive if cache is None else cache.derive
        both: tuple[Tensor, Tensor] = keep(
            ("encoded", layout), tuple(self), lambda: self._encode(layout, cache)
        )
        return both

    def _encode(self, layout: Layout, cache: TensorCache | None) -> tuple[Tensor, Tensor]:
        weight = rows = self.weight.detach()
        refinement, slots = self.refinement, self.refinement_slot
        if refinement is not None and slots is not None:
            # Kept apart: with every change of rows a device would be waited for here.
            keep = derive if cache is None else cache.derive
            count = len(refinement)
            refined = keep(("refined", count), (slots,), lambda: _refined_rows(slots, count))
            rows = torch.cat([rows, rows[refined] + refinement])
        if self.rotation is not None:
            with torch.autocast(rows.device.type, enabled=False):
                rows = rows @ self.rotation
        # A Parameter whose own memory NumPy has seen can never be resized again.
        return encode(rows.clone() if rows is weight and rows.is_cpu else rows, layout)


def encode(rows: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Store and scales, as :class:`BlockStore` has them, of rows whose memory NumPy may see.

    Args:
        rows: float32 [n, dim], rotated if they are to be.
        layout: layout of the blocks.

    Raises:
        ValueError: a row that is not finite.
    """
    if not rows.is_cpu:
        return encode_on_device(rows, layout)
    store, scales = layout.encode(rows.numpy())
    return torch.from_numpy(_on_lines(store)), torch.from_numpy(scales)


def _on_lines(store: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy that begins with a cache line: a row of 64 bytes then lies in one, not in two.

    NumPy's memory begins anywhere, but asks for huge pages; torch's begins with a line and does not.
    """
    room = np.empty(store.size + _LINE_BYTES, dtype=np.uint8)
    begin = -room.ctypes.data % _LINE_BYTES
    placed = room[begin : begin + store.size].reshape(store.shape)
    placed[:] = store
    return placed


def _refined_rows(slots: Tensor, count: int) -> Tensor:
    """The row that each of ``count`` rows of a refinement belongs to, int64 [count]."""
    group, item = (slots >= 0).nonzero(as_tuple=True)
    rows = item.new_zeros(count)
    rows[slots[group, item].long()] = item
    return rows


def held_blocks(
    block_weights: Tensor,
    item_group: Tensor,
    layout: Layout,
    dim: int,
    budget_bytes: int,
    cache: TensorCache | None = None,
) -> Tensor:
    """Masks of the layers a budget keeps, int64 [num_groups, num_item_groups].

    Args and errors are those of :func:`peel_ext.nn.selection.select_blocks` and ``block_costs``.
    """

    def select() -> Tensor:
        costs = block_costs(item_group, layout, dim)
        overhead = overhead_bytes(item_group, layout, block_weights.shape[1])
        return select_blocks(block_weights.detach(), costs, layout, budget_bytes, overhead)

    keep = derive if cache is None else cache.derive
    held: Tensor = keep(("held", layout, dim, budget_bytes), (block_weights, item_group), select)
    return held


class BudgetedBlocks(NamedTuple):
    """The blocks of a table under a budget, before they are made."""

    rows: Rows
    block_weights: Tensor  # float32 [num_groups, num_item_groups, num_layers]
    item_group: Tensor  # int32 [num_groups or 1, num_embeddings]
    layout: Layout
    layout_text: str  # :func:`layout_text` of it, which compilers cannot make
    budget_bytes: int

    def store(self, cache: TensorCache) -> BlockStore:
        """The blocks; what they are made of is kept until it changes.

        Raises:
            BudgetError: too few bytes for one of the user groups; names the minimum.
            TypeError: a weight that is not float32.
            ValueError: a weight that is not finite, or where there are no kernels.
        """
        weight, *_, rotation = self.rows
        encoded = self.rows.encoded(self.layout, cache)
        held = held_blocks(
            self.block_weights, self.item_group, self.layout, weight.shape[1], self.budget_bytes,
            cache,
        )  # fmt: skip
        return BlockStore(
            self.layout, *encoded, self.item_group, held, levels_on(weight.device), rotation
        )

    def decoded_rows(self, table: Table, pairs: Pairs) -> tuple[Tensor, Mask]:
        """Decoded rows [m, dim] of traced pairs, without a gradient, and which values are held."""
        layout = self.layout_text
        weight, refinement, slots, rotation = self.rows
        held = _held_blocks_op(
            self.block_weights.detach(), self.item_group, layout, weight.shape[1], self.budget_bytes
        )
        rows: Tensor = _budgeted_lookup_op(
            weight.detach(), table.num_groups,
            None if refinement is None else refinement.detach(), slots, rotation, self.item_group,
            held, layout, *pairs,
        )  # fmt: skip
        return rows, Mask(geometry_of(self.layout), self.item_group, held)


# ---- the registered ops: neither can be captured in a CUDA graph, for they look at what they read

_UNSAFE = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("peel_ext::held_blocks", mutates_args=(), tags=_UNSAFE)
def _held_blocks_op(
    block_weights: Tensor, item_group: Tensor, layout: str, dim: int, budget_bytes: int
) -> Tensor:
    refuse_onnx(budget_bytes)
    # An op's result is the caller's to overwrite.
    return held_blocks(block_weights, item_group, _layout_of(layout), dim, budget_bytes).clone()


@_held_blocks_op.register_fake
def _(
    block_weights: Tensor, item_group: Tensor, layout: str, dim: int, budget_bytes: int
) -> Tensor:
    refuse_onnx(budget_bytes)
    return block_weights.new_empty(block_weights.shape[:2], dtype=torch.int64)


def refuse_onnx(budget_bytes: int) -> None:
    """Raises in an export to ONNX, which would find out only at its end that it has no such op."""
    if torch.onnx.is_in_onnx_export():
        raise RuntimeError(
            "an ElasticEmbedding under a budget has no ONNX operators: put "
            f"peel_ext.nn.plain_module(embedding, group, {budget_bytes}) in its place in the model, and "
            "export that outside the budget"
        )


@torch.library.custom_op("peel_ext::budgeted_lookup", mutates_args=(), tags=_UNSAFE)
def _budgeted_lookup_op(
    weight: Tensor,
    num_groups: int,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    rotation: Tensor | None,
    item_group: Tensor,
    held: Tensor,
    layout: str,
    indices: Tensor,
    groups: Tensor | None,
    group: int,
) -> Tensor:
    rows = Rows(weight, refinement, refinement_slot, rotation)
    how = _layout_of(layout)
    blocks = BlockStore(
        how, *rows.encoded(how), item_group, held, levels_on(weight.device), rotation
    )
    table = Table(weight, refinement, refinement_slot, blocks, num_groups)
    return gather(table, Pairs(indices, groups, group).check())


register_shapes(_budgeted_lookup_op, first_pair=8)
