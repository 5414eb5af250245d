"""A lookup straight in the native core, without the dispatcher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peel_ext.ops import _bridge
from peel_ext.ops.lookup.gradients import Record
from peel_ext.ops.lookup.table import Options, Pairs, Table


def look_up(table: Table, pairs: Pairs, options: Options) -> Tensor:
    """Rows [m, dim], with gradients."""
    weight, refinement = table.weight, table.refinement
    if torch.is_grad_enabled() and (
        weight.requires_grad or (refinement is not None and refinement.requires_grad)
    ):
        rows: Tensor = _Lookup.apply(weight, refinement, table, pairs, options)
        return rows
    return gather(table, pairs)


def gather(table: Table, pairs: Pairs) -> Tensor:
    """Rows [m, dim], without gradients.

    Raises:
        IndexError: an index or group out of range.
    """
    num_embeddings, dim = table.weight.shape
    return _bridge.grouped_lookup(table.native(), pairs, num_embeddings, table.num_groups, dim)


class _Lookup(torch.autograd.Function):
    """The backward of the registered op without the dispatcher's forward."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, refinement: Tensor | None, table: Table, pairs: Pairs,
        options: Options,
    ) -> Tensor:  # fmt: skip
        Record.of(table, pairs, options).save(ctx)
        ctx.table = table
        return gather(table, pairs)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[:2]
        return (*Record.load(ctx).gradients(grad_rows, needed, ctx.table), None, None, None)
