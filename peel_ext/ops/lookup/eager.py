"""A lookup straight in the native core, without the dispatcher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peel_ext.ops import _bridge
from peel_ext.ops.lookup.gradients import Record
from peel_ext.ops.lookup.table import Options, Pairs, Table

_is_grad_enabled = torch.is_grad_enabled
# Not public, hence the way out: without it, such modes see none of these lookups.
_num_function_modes = getattr(torch._C, "_len_torch_function_stack", lambda: 0)


def look_up(table: Table, pairs: Pairs, options: Options) -> Tensor:
    """Rows [m, dim], with gradients."""
    if _is_grad_enabled() and table.requires_grad():
        rows: Tensor = _apply(table.weight, table.refinement, table, pairs, options)
        return rows
    return gather(table, pairs)


def look_up_at_once(table: Table, indices: Tensor, groups: Tensor | int) -> Tensor | None:
    """Rows [*indices.shape, dim] without gradients, where nothing has to be made for it; else None.

    Most calls are such: no gradient, a table that was looked up in before, indices and groups that
    the kernel can read as they are.
    """
    native = table.called
    if native is None or (_is_grad_enabled() and table.requires_grad()):
        return None
    return _bridge.adjacent_lookup(native, indices, groups)


def look_up_dense(
    weight: Tensor, indices: Tensor, groups: Tensor | int, num_groups: int
) -> Tensor | None:
    """The same of the rows of a weight, which all user groups have.

    None also for a weight, indices or groups that are not as a kernel reads them, for those out of
    range, and where a mode of torch wants to see functions.
    """
    if _num_function_modes():
        return None
    return _bridge.dense_lookup(weight, indices, groups, num_groups)


def gather(table: Table, pairs: Pairs) -> Tensor:
    """Rows [m, dim], without gradients.

    Raises:
        IndexError: an index or group out of range.
        ValueError: indices on another device than the table.
    """
    indices, groups, group = pairs
    native = table.native()
    if table.called is not None:
        rows = _bridge.adjacent_lookup(native, indices, group if groups is None else groups)
        if rows is not None:
            return rows
    num_embeddings, dim = table.weight.shape
    where = table.weight.device
    if indices.device != where:
        raise ValueError(f"indices must be on {where} as the table, got {indices.device}")
    return _bridge.grouped_lookup(native, pairs, num_embeddings, table.num_groups, dim)


class _Lookup(torch.autograd.Function):
    """The backward of the registered op without the dispatcher's forward."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, refinement: Tensor | None, table: Table, pairs: Pairs,
        options: Options,
    ) -> Tensor:  # fmt: skip
        indices, groups, ctx.group = pairs
        _, *mask = (None, None, None) if table.mask is None else table.mask
        # All that the backward reads, so that torch tells of an edit in between.
        ctx.save_for_backward(indices, groups, table.refinement_slot, *mask)
        ctx.table, ctx.options = table, options
        return gather(table, pairs)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
        indices, groups, *_ = ctx.saved_tensors
        record = Record.of(ctx.table, Pairs(indices, groups, ctx.group), ctx.options)
        gradients = record.gradients(grad_rows, ctx.needs_input_grad[:2], ctx.table)
        return (*gradients, None, None, None)


# Function.apply first looks for transforms of functions, which are looked for before an eager lookup.
_apply = super(torch.autograd.Function, _Lookup).apply
