"""grouped_lookup: rows of (index, group) pairs out of per-group block-sparse tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peel_ext.format.layout import VALUE_TYPES, ColumnsLayout
from peel_ext.format.store import BlockStore
from peel_ext.ops import _bridge
from peel_ext.ops._checks import (
    check_int,
    check_shape,
    check_tensor,
    is_traced,
    rows_with_unit_stride,
)

_INDEX = (torch.int32, torch.int64)
_DENSE: tuple[int, int, int, list[int]] = (0, 0, 0, [])

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
        table, indices, groups, group, weight.shape[0], num_groups, weight.shape[1]
    )


_lookup_op = torch.library.custom_op(
    "peel_ext::grouped_lookup", _lookup, mutates_args=(), device_types="cpu"
)


@_lookup_op.register_fake
def _(weight: Tensor, indices: Tensor, *_: Any) -> Tensor:
    return weight.new_empty((indices.shape[0], weight.shape[1]))


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
        table, indices, groups, group, grad_rows.contiguous(), targets, num_targets, mean_duplicates
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
        mask = _held_columns(ctx.geometry, ctx.dim, indices, groups, ctx.group, item_group, held)
        gathered = gathered * mask
    return (gathered, *([None] * 11))


_lookup_backward_op.register_autograd(_backward_of_backward, setup_context=_setup_backward)


def _held_columns(
    geometry: list[int], dim: int, indices: Tensor, groups: Tensor | None, group: int,
    item_group: Tensor, held: Tensor,
) -> Tensor:  # fmt: skip
    """Which values of each pair's row are held, bool [m, dim] or [m, 1]."""
    owner = torch.full_like(indices, group) if groups is None else groups
    shared = item_group.shape[0] == 1
    which = item_group[torch.zeros_like(owner) if shared else owner, indices].long()  # [m]
    masks = torch.where(which < 0, 0, held[owner, which.clamp(min=0)])[:, None]
    if geometry[0] != ColumnsLayout.code:
        return masks & 1 != 0
    return masks >> (torch.arange(dim) // geometry[2]) & 1 != 0


def _setup_lookup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    (weight, indices, groups, group, num_groups, refinement, refinement_slot, geometry, _, _,
     item_group, held, _, _, padding_idx, mean) = inputs  # fmt: skip
    ctx.save_for_backward(indices, groups, refinement_slot, item_group, held)
    ctx.group, ctx.num_groups, ctx.geometry = group, num_groups, geometry
    ctx.padding_idx, ctx.mean, ctx.sparse = padding_idx, mean, False
    ctx.num_embeddings = weight.shape[0]
    ctx.num_refined = None if refinement is None else refinement.shape[0]


def _backward(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
    """Gradients of weight and refinement, straight through the decoding."""
    indices, groups, refinement_slot, item_group, held = ctx.saved_tensors
    grad_rows = grad_rows.contiguous()
    traced = is_traced(grad_rows)

    def scatter(targets: Tensor, num_targets: int) -> Tensor:
        # The dispatcher is needed only where the gradient itself is to be differentiated.
        op = _lookup_backward_op if torch.is_grad_enabled() or traced else _lookup_backward
        grad: Tensor = op(
            grad_rows, indices, groups, ctx.group, ctx.num_groups, targets, num_targets, ctx.mean,
            ctx.num_embeddings, ctx.geometry, item_group, held,
        )  # fmt: skip
        return grad

    grad_weight = grad_refinement = None
    if ctx.needs_input_grad[0]:
        targets = indices.long()
        if ctx.sparse:
            rows, targets = torch.unique(targets, return_inverse=True)
        kept = targets
        if ctx.padding_idx >= 0:
            kept = torch.where(indices == ctx.padding_idx, -1, targets)
        if ctx.sparse:
            shape = (ctx.num_embeddings, grad_rows.shape[1])
            grad_weight = torch.sparse_coo_tensor(
                rows[None],
                scatter(kept, len(rows)),
                shape,
                is_coalesced=True,
                check_invariants=False,
            )
        else:
            grad_weight = scatter(kept, ctx.num_embeddings)
    if ctx.num_refined is not None and ctx.needs_input_grad[5]:
        owner = torch.full_like(indices, ctx.group) if groups is None else groups
        slots = refinement_slot[owner, indices].long()
        if ctx.padding_idx >= 0:
            slots = torch.where(indices == ctx.padding_idx, -1, slots)
        grad_refinement = scatter(slots, ctx.num_refined)
    return (grad_weight, None, None, None, None, grad_refinement, *([None] * 10))


_lookup_op.register_autograd(_backward, setup_context=_setup_lookup)


class _Lookup(torch.autograd.Function):
    """The eager path: the same backward without the dispatcher's forward."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:  # args: those of the op, then sparse
        rows = _lookup(*args[:-1])
        _setup_lookup(ctx, args[:-1], rows)
        ctx.sparse = args[-1]
        return rows

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:
        return (*_backward(ctx, grad_rows), None)


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
        sparse: make the gradient of ``weight`` a sparse tensor.

    Returns:
        float32 [*indices.shape, dim].

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape.
        IndexError: an index or group out of range.
    """
    check_tensor("weight", weight, (torch.float32,), 2)
    if not isinstance(indices, Tensor) or indices.dtype not in _INDEX:
        got = getattr(indices, "dtype", type(indices).__name__)
        raise TypeError(f"indices must be an int32 or int64 tensor, got {got}")
    check_int("num_groups", num_groups, 1)
    flat = indices.reshape(-1).contiguous()  # [m]
    flat_groups, group = _flatten_groups(groups, indices)
    _check_refinement(weight, refinement, refinement_slot, num_groups)
    geometry = [*_DENSE[:3]]
    tensors: tuple[Tensor | None, ...] = (None,) * 6
    if blocks is not None:
        layout = blocks.layout
        geometry = [layout.code, VALUE_TYPES.index(layout.value_type), layout.block_dim]
        geometry += layout.layer_bits
        tensors = _check_blocks(weight, refinement, blocks, num_groups)
    args: tuple[Any, ...] = (
        weight, flat, flat_groups, group, num_groups, refinement, refinement_slot, geometry,
        *tensors, -1 if padding_idx is None else padding_idx, scale_grad_by_freq,
    )  # fmt: skip
    if is_traced(weight, indices):
        if sparse:
            raise ValueError("sparse=True is not supported under torch.compile or torch.func")
        rows = _lookup_op(*args)
    elif torch.is_grad_enabled() and (
        weight.requires_grad or (refinement is not None and refinement.requires_grad)
    ):
        rows = _Lookup.apply(*args, sparse)
    else:
        rows = _lookup(*args)
    return rows.reshape(*indices.shape, weight.shape[1])


def _flatten_groups(groups: Tensor | int, indices: Tensor) -> tuple[Tensor | None, int]:
    """Groups [m] beside flattened indices, or None and the one group of all."""
    if not isinstance(groups, Tensor):
        if isinstance(groups, bool) or not isinstance(groups, int):
            raise TypeError(f"groups must be an int or a tensor of integers, got {groups!r}")
        return None, groups
    if groups.dtype not in _INDEX:
        raise TypeError(f"groups must be int32 or int64, got {groups.dtype}")
    if groups.shape != indices.shape[: groups.ndim]:
        raise ValueError(
            f"groups must have the shape of indices {tuple(indices.shape)} or of its leading "
            f"dimensions, got {tuple(groups.shape)}"
        )
    trailing = (1,) * (indices.ndim - groups.ndim)
    spread = groups.to(indices.dtype).reshape(groups.shape + trailing)
    return spread.expand(indices.shape).reshape(-1).contiguous(), 0  # [m]


def _check_refinement(
    weight: Tensor, refinement: Tensor | None, refinement_slot: Tensor | None, num_groups: int
) -> None:
    if (refinement is None) != (refinement_slot is None):
        raise ValueError("refinement and refinement_slot must be given together")
    if refinement is None or refinement_slot is None:
        return
    check_tensor("refinement", refinement, (torch.float32,), 2)
    check_shape("refinement", refinement, (-1, weight.shape[1]))
    check_tensor("refinement_slot", refinement_slot, (torch.int32,), 2)
    check_shape("refinement_slot", refinement_slot, (num_groups, weight.shape[0]))


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
