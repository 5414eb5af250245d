"""The one door for lookups: eager or traced, by kernel or in plain torch, on which device."""

from __future__ import annotations

import torch
from torch import Tensor

from peel_ext.ops._bridge import stamp_of
from peel_ext.ops._checks import DEVICES, is_traced
from peel_ext.ops._launching import is_capturing
from peel_ext.ops.lookup import eager, plain
from peel_ext.ops.lookup.eager import gather, look_up_at_once, look_up_dense
from peel_ext.ops.lookup.table import (
    BlockStore,
    Mask,
    Options,
    Pairs,
    Table,
    check_group,
    check_groups,
    geometry_of,
)
from peel_ext.ops.lookup.traced import Encoder, register_shapes
from peel_ext.ops.lookup.traced import look_up as through_dispatcher

__all__ = [
    "DEVICES", "BlockStore", "Encoder", "Mask", "Options", "Pairs", "Table", "check_group",
    "check_groups", "gather", "geometry_of", "has_kernels", "is_capturing", "is_traced",
    "look_up_at_once", "look_up_dense", "lookup", "register_shapes", "stamp_of",
]  # fmt: skip


def has_kernels(weight: Tensor) -> bool:
    """True if rows of this dtype and device are looked up by kernels of our own."""
    return weight.dtype == torch.float32 and weight.device.type in DEVICES


def lookup(
    table: Table, indices: Tensor, groups: Tensor | int, options: Options,
    encoder: Encoder | None = None, traced: bool | None = None,
) -> Tensor:  # fmt: skip
    """Rows [*indices.shape, dim] of a table; gradients go to its weight and refinement.

    Args:
        table: what to look up in.
        indices: int32 or int64, any shape.
        groups: user group of each index: an int, or a tensor of integers of the shape of
            ``indices`` or of its leading dimensions.
        options: those of ``nn.Embedding``.
        encoder: makes the blocks of a table that has none, where calls are traced.
        traced: what :func:`is_traced` says of the weight and the indices, where the caller had to ask;
            None: it is asked here.

    Raises:
        TypeError: not integers.
        ValueError: shapes that do not go together; sparse gradients under torch.func.
        IndexError: an index or group out of range.
    """
    if traced is None:
        traced = is_traced(table.weight, indices)
    pairs = Pairs.of(indices, groups)
    if table.blocks is None and encoder is None and not has_kernels(table.weight):
        check_groups(groups, indices, table.num_groups)
        dense = (table.weight, table.refinement, table.refinement_slot)
        rows = plain.look_up(*dense, pairs, options)
    elif traced:
        rows = through_dispatcher(table, pairs, options, encoder)
    else:
        rows = eager.look_up(table, pairs, options)
    return rows if indices.ndim == 1 else rows.view(*indices.shape, table.weight.shape[1])
