"""grouped_lookup: rows of (index, group) pairs out of per-group block-sparse tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peel_ext.format.store import BlockStore
from peel_ext.ops import _bridge
from peel_ext.ops._checks import is_traced, is_transformed, rows_with_unit_stride
from peel_ext.ops._lookup_arguments import check_table, flatten_pairs, split_geometry
from peel_ext.ops._lookup_gradients import held_values, lookup_gradients

# The arguments of the registered ops are flat, because schemas are; `geometry` is the layout's code,
# value type, block_dim and the bits of its layers.


def _lookup(
    weight: Tensor,
    indices: Tensor,
    groups: Tensor | None,
    group: int,
    num_groups: int,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    geometry: list[int],
    store: Tensor | None,
    scales: Tensor | None,
    item_group: Tensor | None,
    held: Tensor | None,
    centroids: Tensor | None,
    rotation: Tensor | None,
    padding_idx: int,
    mean_duplicates: bool,
    sparse: bool,
) -> Tensor:
    weight = rows_with_unit_stride(weight)
    refinement = None if refinement is None else refinement.contiguous()
    table = _bridge.store_table(
        weight, weight.shape[0], weight.shape[1], num_groups, refinement, refinement_slot,
        split_geometry(geometry), store, scales, item_group, held, centroids, rotation,
    )  # fmt: skip
    return _bridge.grouped_lookup(
        table,
        indices.contiguous(),
        None if groups is None else groups.contiguous(),
        group,
        weight.shape[0],
        num_groups,
        weight.shape[1],
    )


_lookup_op = torch.library.custom_op(
    "peel_ext::grouped_lookup", _lookup, mutates_args=(), device_types="cpu"
)


def register_shapes(op: Any) -> None:
    """Says what an op (weight, indices, groups, ...) -> rows [m, dim] does to shapes and vmap."""

    @op.register_fake  # type: ignore[untyped-decorator]
    def _(weight: Tensor, indices: Tensor, *_: Any) -> Tensor:
        return weight.new_empty((indices.shape[0], weight.shape[1]))

    @op.register_vmap  # type: ignore[untyped-decorator]
    def _(info: Any, in_dims: Any, weight: Tensor, *rest: Any) -> tuple[Tensor, int]:
        indices, groups = _unbatch_pairs(info.batch_size, in_dims, (weight, *rest))
        rows: Tensor = op(weight, indices, groups, *rest[2:])
        return rows.reshape(info.batch_size, -1, weight.shape[1]), 0


register_shapes(_lookup_op)


def _unbatch_pairs(batch_size: int, in_dims: Any, args: tuple[Any, ...]) -> list[Tensor | None]:
    """Indices and groups [batch_size * m] of an op under vmap.

    Raises:
        ValueError: vmap over anything else; one encoded table serves the whole batch.
    """
    for at, (arg, dim) in enumerate(zip(args, in_dims, strict=True)):
        if isinstance(arg, Tensor) and dim is not None and at not in (1, 2):
            raise ValueError(
                "torch.func.vmap can map over indices and groups of encoded rows, not over the "
                f"table itself; argument {at} is mapped over"
            )
    pairs: list[Tensor | None] = []
    for arg, dim in zip(args[1:3], in_dims[1:3], strict=True):
        if arg is not None:
            batch_first = arg.expand(batch_size, -1) if dim is None else arg.movedim(dim, 0)
            arg = batch_first.reshape(-1)
        pairs.append(arg)
    return pairs


def _setup_lookup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    (weight, indices, groups, group, num_groups, refinement, refinement_slot, geometry, _, _,
     item_group, held, _, _, padding_idx, mean, sparse) = inputs  # fmt: skip
    ctx.save_for_backward(indices, groups, refinement_slot, item_group, held)
    ctx.native = None
    ctx.group, ctx.num_groups, ctx.geometry = group, num_groups, geometry
    ctx.padding_idx, ctx.mean, ctx.sparse = padding_idx, mean, sparse
    ctx.num_embeddings = weight.shape[0]
    ctx.num_refined = None if refinement is None else refinement.shape[0]


def _backward_of_op(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
    grad_weight, grad_refinement = lookup_gradients(ctx, grad_rows)
    return (grad_weight, None, None, None, None, grad_refinement, *([None] * 11))


_lookup_op.register_autograd(_backward_of_op, setup_context=_setup_lookup)


class LookupTable:
    """A table that was checked once, for many lookups in eager mode.

    Reads the memory its tensors had when it was made, which it keeps alive. Whoever holds one makes
    a new one when a tensor is replaced; what is written into the same memory is seen, except that
    a weight whose columns are not adjacent, or another tensor that is not contiguous, was copied.

    Args and errors are those of :func:`grouped_lookup`.
    """

    __slots__ = ("geometry", "native", "num_groups", "shape", "tensors")

    def __init__(
        self,
        weight: Tensor,
        *,
        refinement: Tensor | None = None,
        refinement_slot: Tensor | None = None,
        blocks: BlockStore | None = None,
        num_groups: int = 1,
    ) -> None:
        geometry, refinement_slot, *stored = check_table(
            weight, refinement, refinement_slot, blocks, num_groups
        )
        self.shape: tuple[int, int] = (weight.shape[0], weight.shape[1])
        self.num_groups = num_groups
        self.geometry: list[int] = geometry
        self.tensors: tuple[Tensor | None, ...] = (
            rows_with_unit_stride(weight.detach()),
            None if refinement is None else refinement.detach().contiguous(),
            refinement_slot,
            *stored,
        )
        weight_memory, refinement_memory, slots, *rest = self.tensors
        self.native = _bridge.store_table(
            weight_memory, self.shape[0], self.shape[1], num_groups, refinement_memory, slots,
            split_geometry(geometry), *rest,
        )  # fmt: skip

    def lookup(
        self,
        weight: Tensor,
        refinement: Tensor | None,
        indices: Tensor,
        groups: Tensor | int,
        padding_idx: int | None = None,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        """Rows [*indices.shape, dim]; gradients go to ``weight`` and ``refinement``."""
        flat, flat_groups, group = flatten_pairs(indices, groups)
        if torch.is_grad_enabled() and (
            weight.requires_grad or (refinement is not None and refinement.requires_grad)
        ):
            padding = -1 if padding_idx is None else padding_idx
            call = (group, padding, scale_grad_by_freq, sparse)
            rows: Tensor = _Lookup.apply(weight, refinement, self, flat, flat_groups, call)
        else:
            rows = self.gather(flat, flat_groups, group)
        return rows if indices.ndim == 1 else rows.view(*indices.shape, self.shape[1])

    def gather(self, indices: Tensor, groups: Tensor | None, group: int) -> Tensor:
        """Rows [m, dim] of contiguous indices and groups [m] of one dtype."""
        return _bridge.grouped_lookup(
            self.native, indices, groups, group, self.shape[0], self.num_groups, self.shape[1]
        )


class _Lookup(torch.autograd.Function):
    """The eager path: the backward of the op without the dispatcher's forward."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, refinement: Tensor | None, table: LookupTable, indices: Tensor,
        groups: Tensor | None, call: tuple[int, int, bool, bool],
    ) -> Tensor:  # fmt: skip
        ctx.group, ctx.padding_idx, ctx.mean, ctx.sparse = call
        tensors = table.tensors
        ctx.save_for_backward(indices, groups, tensors[2], tensors[5], tensors[6])
        ctx.native, ctx.table = table.native, table  # the table keeps the memory of the native one
        ctx.num_groups, ctx.geometry = table.num_groups, table.geometry
        ctx.num_embeddings = table.shape[0]
        ctx.num_refined = None if refinement is None else refinement.shape[0]
        return table.gather(indices, groups, ctx.group)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
        return (*lookup_gradients(ctx, grad_rows), None, None, None, None)


def grouped_lookup(
    weight: Tensor,
    indices: Tensor,
    groups: Tensor | int = 0,
    *,
    refinement: Tensor | None = None,
    refinement_slot: Tensor | None = None,
    blocks: BlockStore | None = None,
    num_groups: int = 1,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of (index, group) pairs out of the tables of all user groups.

    Row (i, g) is ``weight[i]``, plus ``refinement[refinement_slot[g, i]]`` where that slot is not
    -1. With ``blocks`` it is the decoded value of that row, of it only the layers held: columns not
    held are zero, bits not held are unknown, and a row of which nothing is held is zero. The
    gradient goes straight through the decoding to the held part of ``weight`` and ``refinement``,
    summed over duplicates in order of occurrence.

    Args:
        weight: float32 [num_embeddings, dim].
        indices: int32 or int64, any shape.
        groups: user group of each index: an int, or a tensor of integers of the shape of
            ``indices`` or of its leading dimensions.
        refinement: float32 [num_refined, dim].
        refinement_slot: int32 [num_groups, num_embeddings], rows of refinement or -1.
        blocks: encoded rows and which layers each user group holds.
        num_groups: number of user groups.
        padding_idx: this index gets no gradient.
        scale_grad_by_freq: divide a row's gradient by its occurrences.
        sparse: make the gradients sparse tensors of the rows that took part, uncoalesced unless
            parts of rows are dropped or scaled.

    Returns:
        float32 [*indices.shape, dim].

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape; sparse under torch.func.
        IndexError: an index or group out of range.
    """
    options = (padding_idx, scale_grad_by_freq, sparse)
    if not is_traced(weight, indices):
        table = LookupTable(
            weight, refinement=refinement, refinement_slot=refinement_slot, blocks=blocks,
            num_groups=num_groups,
        )  # fmt: skip
        return table.lookup(weight, refinement, indices, groups, *options)
    geometry, refinement_slot, *stored = check_table(
        weight, refinement, refinement_slot, blocks, num_groups
    )
    if sparse and is_transformed():
        raise ValueError("sparse=True is not supported under torch.func")
    flat, flat_groups, group = flatten_pairs(indices, groups)
    padding = -1 if padding_idx is None else padding_idx
    tail = (geometry, *stored, padding, scale_grad_by_freq, sparse)
    if not is_transformed():
        rows = _lookup_op(
            weight, flat, flat_groups, group, num_groups, refinement, refinement_slot, *tail
        )
    else:
        rows = plain_rows(
            weight, flat, groups if flat_groups is None else flat_groups, refinement,
            refinement_slot, padding_idx, scale_grad_by_freq,
        )  # fmt: skip
        if blocks is not None:
            decoded = _lookup_op(
                weight.detach(), flat, flat_groups, group, num_groups,
                None if refinement is None else refinement.detach(), refinement_slot, *tail,
            )  # fmt: skip
            owner = torch.full_like(flat, group) if flat_groups is None else flat_groups
            block_dim = None if blocks.layout.nested else blocks.layout.block_dim
            known = held_values(block_dim, weight.shape[1], flat, owner, *stored[2:4])
            rows = straight_through(rows, decoded, known)
    return rows.reshape(*indices.shape, weight.shape[1])


def plain_rows(
    weight: Tensor,
    indices: Tensor,
    groups: Tensor | int,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    padding_idx: int | None,
    scale_grad_by_freq: bool,
) -> Tensor:
    """Dense rows [m, dim] of pairs in plain torch, for other dtypes and function transforms."""
    rows = F.embedding(indices, weight, padding_idx, scale_grad_by_freq=scale_grad_by_freq)
    if refinement is None or refinement_slot is None:
        return rows
    owner = groups if isinstance(groups, Tensor) else torch.full_like(indices, groups)
    slot = refinement_slot[owner, indices].long()  # [m]
    refined = (slot >= 0)[:, None]
    own = F.embedding(
        torch.where(slot < 0, refinement.shape[0], slot),
        F.pad(refinement, (0, 0, 0, 1)),  # a last row for those that have none
        scale_grad_by_freq=scale_grad_by_freq,
    )
    if padding_idx is not None:
        own = torch.where((indices == padding_idx)[:, None], own.detach(), own)
    return torch.where(refined, rows + own, rows)


def straight_through(rows: Tensor, decoded: Tensor, known: Tensor) -> Tensor:
    """``decoded`` to the bit, with the gradient of ``rows`` where values are known."""
    return decoded - torch.where(known, rows.detach() - rows, 0)
