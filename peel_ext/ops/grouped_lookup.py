"""grouped_lookup: rows of (index, group) pairs out of per-group block-sparse tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peel_ext.format.layout import VALUE_TYPES, ColumnsLayout
from peel_ext.format.store import BlockStore
from peel_ext.ops import _bridge
from peel_ext.ops._checks import (
    check_int,
    check_shape,
    check_tensor,
    is_traced,
    is_transformed,
    rows_with_unit_stride,
)

_INDEX = (torch.int32, torch.int64)

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
) -> Tensor:
    weight = rows_with_unit_stride(weight)
    refinement = None if refinement is None else refinement.contiguous()
    table = _bridge.store_table(
        weight, weight.shape[0], weight.shape[1], num_groups, refinement, refinement_slot,
        _split(geometry), store, scales, item_group, held, centroids, rotation,
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


def _lookup_backward(
    grad_rows: Tensor,
    indices: Tensor,
    groups: Tensor | None,
    group: int,
    num_groups: int,
    targets: Tensor,
    num_targets: int,
    mean_duplicates: bool,
    num_embeddings: int,
    geometry: list[int],
    item_group: Tensor | None,
    held: Tensor | None,
) -> Tensor:
    table = _bridge.store_table(
        None, num_embeddings, grad_rows.shape[1], num_groups, None, None,
        _split(geometry), None, None, item_group, held, None, None,
    )  # fmt: skip
    return _bridge.grouped_lookup_backward(
        table,
        indices.contiguous(),
        None if groups is None else groups.contiguous(),
        group,
        grad_rows.contiguous(),
        targets.contiguous(),
        num_targets,
        mean_duplicates,
    )


_lookup_backward_op = torch.library.custom_op(
    "peel_ext::grouped_lookup_backward", _lookup_backward, mutates_args=(), device_types="cpu"
)


@_lookup_backward_op.register_fake
def _(
    grad_rows: Tensor, indices: Tensor, groups: Any, group: int, num_groups: int, targets: Tensor,
    num_targets: int, *_: Any,
) -> Tensor:  # fmt: skip
    return grad_rows.new_empty((num_targets, grad_rows.shape[1]))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_rows, indices, groups, group, _, targets, _, mean, _, geometry, item_group, held = inputs
    ctx.save_for_backward(indices, groups, targets, item_group, held)
    ctx.group, ctx.mean, ctx.geometry, ctx.dim = group, mean, geometry, grad_rows.shape[1]


def _backward_of_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    indices, groups, targets, item_group, held = ctx.saved_tensors
    gathered = grad[targets.clamp(min=0)] * (targets >= 0)[:, None]  # [m, dim]
    if ctx.mean:
        counts = torch.zeros(len(grad), dtype=grad.dtype)
        counts.index_add_(0, targets.clamp(min=0), (targets >= 0).to(grad.dtype))
        gathered = gathered / counts[targets.clamp(min=0)].clamp(min=1)[:, None]
    if item_group is not None:
        block_dim = ctx.geometry[2] if ctx.geometry[0] == ColumnsLayout.code else None
        owner = groups if groups is not None else torch.full_like(indices, ctx.group)
        gathered = gathered * held_values(block_dim, ctx.dim, indices, owner, item_group, held)
    return (gathered, *([None] * 11))


_lookup_backward_op.register_autograd(_backward_of_backward, setup_context=_setup_backward)


def held_values(
    block_dim: int | None, dim: int, indices: Tensor, groups: Tensor, item_group: Tensor,
    held: Tensor,
) -> Tensor:  # fmt: skip
    """Which values of each pair's row are held, bool [m, dim], or [m, 1] where all or none are.

    Args:
        block_dim: columns of a layer, or None in the planes layout.
        dim: values of a row.
        indices: integers [m].
        groups: integers [m].
        item_group: int32 [num_groups or 1, num_embeddings].
        held: int64 [num_groups, num_item_groups].
    """
    shared = item_group.shape[0] == 1
    which = item_group[torch.zeros_like(groups) if shared else groups, indices].long()  # [m]
    masks = torch.where(which < 0, 0, held[groups, which.clamp(min=0)])[:, None]
    if block_dim is None:
        return masks & 1 != 0
    return masks >> (torch.arange(dim) // block_dim) & 1 != 0


def _setup_lookup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    (weight, indices, groups, group, num_groups, refinement, refinement_slot, geometry, _, _,
     item_group, held, _, _, padding_idx, mean) = inputs  # fmt: skip
    ctx.save_for_backward(indices, groups, refinement_slot, item_group, held)
    ctx.native = None
    ctx.group, ctx.num_groups, ctx.geometry = group, num_groups, geometry
    ctx.padding_idx, ctx.mean, ctx.sparse = padding_idx, mean, False
    ctx.num_embeddings = weight.shape[0]
    ctx.num_refined = None if refinement is None else refinement.shape[0]


def _backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and refinement, straight through the decoding."""
    indices, groups, refinement_slot, _, _ = ctx.saved_tensors
    grad_rows = grad_rows.contiguous()
    grad_weight = grad_refinement = None
    if ctx.needs_input_grad[0]:
        grad_weight = _gradient(ctx, grad_rows, indices.long(), ctx.num_embeddings)
    if ctx.num_refined is not None and ctx.needs_input_grad[5 if ctx.native is None else 1]:
        owner = torch.full_like(indices, ctx.group) if groups is None else groups
        slots = refinement_slot[owner, indices].long()
        grad_refinement = _gradient(ctx, grad_rows, slots, ctx.num_refined)
    return grad_weight, grad_refinement


def _gradient(ctx: Any, grad_rows: Tensor, targets: Tensor, num_targets: int) -> Tensor:
    """Gradient [num_targets, dim] of the rows that targets [m] name, -1 for none."""
    indices, groups, _, item_group, held = ctx.saved_tensors
    if ctx.padding_idx >= 0:
        targets = torch.where(indices == ctx.padding_idx, -1, targets)
    if not ctx.sparse:
        return _scatter(ctx, grad_rows, targets, num_targets)
    shape = (num_targets, grad_rows.shape[1])
    if ctx.geometry[0] == ColumnsLayout.code or ctx.mean:
        kept = targets >= 0
        rows, inverse = torch.unique(targets[kept], return_inverse=True)
        values = _scatter(ctx, grad_rows, targets.masked_scatter(kept, inverse), len(rows))
        return torch.sparse_coo_tensor(
            rows[None], values, shape, is_coalesced=True, check_invariants=False
        )
    # Whole rows: what came in is the gradient, under the rows it belongs to. Nothing is sorted or
    # summed; optimisers that want each row once coalesce.
    if item_group is not None:
        owner = torch.full_like(indices, ctx.group) if groups is None else groups
        some = held_values(None, shape[1], indices, owner, item_group, held)[:, 0]
        targets = torch.where(some, targets, -1)
    if targets is not indices and len(targets) and int(targets.min()) < 0:
        kept = targets >= 0
        targets, grad_rows = targets[kept], grad_rows[kept]
    return torch.sparse_coo_tensor(targets[None], grad_rows, shape, check_invariants=False)


def _scatter(ctx: Any, grad_rows: Tensor, targets: Tensor, num_targets: int) -> Tensor:
    indices, groups, _, item_group, held = ctx.saved_tensors
    # The dispatcher is needed only where the gradient itself is to be differentiated.
    if ctx.native is not None and not (torch.is_grad_enabled() or is_traced(grad_rows)):
        return _bridge.grouped_lookup_backward(
            ctx.native, indices, groups, ctx.group, grad_rows, targets, num_targets, ctx.mean
        )
    grad: Tensor = _lookup_backward_op(
        grad_rows, indices, groups, ctx.group, ctx.num_groups, targets, num_targets, ctx.mean,
        ctx.num_embeddings, ctx.geometry, item_group, held,
    )  # fmt: skip
    return grad


def _backward_of_op(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
    grad_weight, grad_refinement = _backward(ctx, grad_rows)
    return (grad_weight, None, None, None, None, grad_refinement, *([None] * 10))


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
        geometry, refinement_slot, *stored = _check_table(
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
            _split(geometry), *rest,
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
        return (*_backward(ctx, grad_rows), None, None, None, None)


def _split(geometry: list[int]) -> tuple[int, int, int, list[int]]:
    return geometry[0], geometry[1], geometry[2], geometry[3:]


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
        ValueError: a wrong shape; sparse under torch.compile, torch.export or torch.func.
        IndexError: an index or group out of range.
    """
    options = (padding_idx, scale_grad_by_freq, sparse)
    if not is_traced(weight, indices):
        table = LookupTable(
            weight, refinement=refinement, refinement_slot=refinement_slot, blocks=blocks,
            num_groups=num_groups,
        )  # fmt: skip
        return table.lookup(weight, refinement, indices, groups, *options)
    geometry, refinement_slot, *stored = _check_table(
        weight, refinement, refinement_slot, blocks, num_groups
    )
    if sparse:
        raise ValueError("sparse=True is not supported under torch.compile or torch.func")
    flat, flat_groups, group = flatten_pairs(indices, groups)
    padding = -1 if padding_idx is None else padding_idx
    tail = (geometry, *stored, padding, scale_grad_by_freq)
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


def flatten_pairs(indices: Tensor, groups: Tensor | int) -> tuple[Tensor, Tensor | None, int]:
    """Indices [m], and beside them groups [m] or None and the one group of all."""
    if not isinstance(indices, Tensor) or indices.dtype not in _INDEX:
        got = getattr(indices, "dtype", type(indices).__name__)
        raise TypeError(f"indices must be an int32 or int64 tensor, got {got}")
    flat = indices.reshape(-1).contiguous() if indices.ndim != 1 else indices.contiguous()
    if not isinstance(groups, Tensor):
        if isinstance(groups, bool) or not isinstance(groups, int | np.integer):
            raise TypeError(f"groups must be an int or a tensor of integers, got {groups!r}")
        return flat, None, int(groups)
    if groups.dtype not in _INDEX or groups.shape != indices.shape:
        _check_groups_fit(groups, indices)
    spread = groups if groups.dtype == indices.dtype else groups.to(indices.dtype)
    if groups.ndim != indices.ndim:
        trailing = (1,) * (indices.ndim - groups.ndim)
        spread = spread.reshape(groups.shape + trailing).expand(indices.shape)
    if spread.ndim != 1:
        spread = spread.reshape(-1)
    return flat, spread.contiguous(), 0


def _check_groups_fit(groups: Tensor, indices: Tensor) -> None:
    if groups.dtype not in _INDEX:
        raise TypeError(f"groups must be int32 or int64, got {groups.dtype}")
    if groups.shape != indices.shape[: groups.ndim]:
        raise ValueError(
            f"groups must have the shape of indices {tuple(indices.shape)} or of its leading "
            f"dimensions, got {tuple(groups.shape)}"
        )


def check_groups(groups: Tensor, indices: Tensor, num_groups: int) -> None:
    """Raises unless every index has a user group; the errors are those of :func:`grouped_lookup`.

    Values are not looked at while tracing, or where reading them would wait for a device.
    """
    if groups.dtype not in _INDEX or groups.shape != indices.shape:
        _check_groups_fit(groups, indices)
    if not groups.is_cpu or is_traced(groups):
        return
    if groups.ndim != 1 or not groups.is_contiguous():
        groups = groups.reshape(-1).contiguous()
    position = _bridge.first_out_of_range(groups, num_groups)
    if position >= 0:
        raise IndexError(
            f"groups contain {int(groups[position])}, expected values in [0, {num_groups})"
        )


def _check_table(
    weight: Tensor,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    blocks: BlockStore | None,
    num_groups: int,
) -> tuple[Any, ...]:
    """Geometry, refinement_slot, and the six tensors of the blocks, contiguous."""
    check_tensor("weight", weight, (torch.float32,), 2)
    check_int("num_groups", num_groups, 1)
    if (refinement is None) != (refinement_slot is None):
        raise ValueError("refinement and refinement_slot must be given together")
    if refinement is not None and refinement_slot is not None:
        check_tensor("refinement", refinement, (torch.float32,), 2)
        check_shape("refinement", refinement, (-1, weight.shape[1]))
        check_tensor("refinement_slot", refinement_slot, (torch.int32,), 2)
        check_shape("refinement_slot", refinement_slot, (num_groups, weight.shape[0]))
        refinement_slot = refinement_slot.contiguous()
    if blocks is None:
        return [0, 0, 0], refinement_slot, None, None, None, None, None, None
    layout = blocks.layout
    geometry = [layout.code, VALUE_TYPES.index(layout.value_type), layout.block_dim]
    geometry += layout.layer_bits
    return geometry, refinement_slot, *_check_blocks(weight, refinement, blocks, num_groups)


def _check_blocks(
    weight: Tensor, refinement: Tensor | None, blocks: BlockStore, num_groups: int
) -> tuple[Tensor | None, ...]:
    """The tensors of a store, contiguous."""
    num_embeddings, dim = weight.shape
    layout = blocks.layout
    layers = layout.num_layers(dim)
    rows = num_embeddings + (0 if refinement is None else refinement.shape[0])
    check_tensor("blocks.store", blocks.store, (torch.uint8,), 2)
    row_bytes = sum(layout.piece_bytes(layer, dim) for layer in range(layers))
    check_shape("blocks.store", blocks.store, (rows, row_bytes))
    check_tensor("blocks.scales", blocks.scales, (torch.float16,), 2)
    check_shape("blocks.scales", blocks.scales, (rows, layout.scales_per_row(dim)))
    check_tensor("blocks.item_group", blocks.item_group, (torch.int32,), 2)
    shared = blocks.item_group.shape[0] == 1
    check_shape(
        "blocks.item_group", blocks.item_group, (1 if shared else num_groups, num_embeddings)
    )
    check_tensor("blocks.held", blocks.held, (torch.int64,), 2)
    check_shape("blocks.held", blocks.held, (num_groups, -1))
    check_tensor("blocks.centroids", blocks.centroids, (torch.float32,), 1)
    check_shape("blocks.centroids", blocks.centroids, (510,))
    if blocks.rotation is not None:
        check_tensor("blocks.rotation", blocks.rotation, (torch.float32,), 2)
        check_shape("blocks.rotation", blocks.rotation, (dim, dim))
    return tuple(
        None if tensor is None else tensor.contiguous()
        for tensor in (
            blocks.store, blocks.scales, blocks.item_group, blocks.held, blocks.centroids,
            blocks.rotation,
        )
    )  # fmt: skip
