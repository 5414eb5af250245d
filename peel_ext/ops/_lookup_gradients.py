"""Gradients of grouped_lookup, straight through the decoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peel_ext.format.layout import ColumnsLayout
from peel_ext.ops import _bridge
from peel_ext.ops._checks import is_traced
from peel_ext.ops._lookup_arguments import split_geometry


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
        split_geometry(geometry), None, None, item_group, held, None, None,
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
    _, indices, groups, group, _, targets, _, mean, _, geometry, item_group, held = inputs
    ctx.save_for_backward(indices, groups, targets, item_group, held)
    ctx.group, ctx.mean, ctx.geometry = group, mean, geometry


def _backward_of_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    indices, groups, targets, item_group, held = ctx.saved_tensors
    if len(grad) == 0:
        return (grad.new_zeros(len(indices), grad.shape[1]), *([None] * 11))
    gathered = grad[targets.clamp(min=0)]  # [m, dim]
    parts = _parts_taken(ctx, gathered, targets, len(grad), indices, groups, item_group, held)
    return (parts, *([None] * 11))


_lookup_backward_op.register_autograd(_backward_of_backward, setup_context=_setup_backward)


def _parts_taken(
    ctx: Any, rows: Tensor, targets: Tensor, num_targets: int, indices: Tensor,
    groups: Tensor | None, item_group: Tensor | None, held: Tensor | None,
) -> Tensor:  # fmt: skip
    """What of each of rows [m, dim] takes part in the gradient of the row that targets [m] names."""
    # Chosen, not multiplied: what takes no part may be infinite or NaN.
    parts = torch.where((targets >= 0)[:, None], rows, 0.0)
    if ctx.mean:
        counts = rows.new_zeros(num_targets)
        counts = counts.index_add(0, targets.clamp(min=0), (targets >= 0).to(rows.dtype))
        parts = parts / counts[targets.clamp(min=0)].clamp(min=1)[:, None]
    if item_group is not None and held is not None:
        block_dim = ctx.geometry[2] if ctx.geometry[0] == ColumnsLayout.code else None
        owner = groups if groups is not None else torch.full_like(indices, ctx.group)
        known = held_values(block_dim, rows.shape[1], indices, owner, item_group, held)
        parts = torch.where(known, parts, 0.0)
    return parts


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
    layer = torch.arange(dim, device=masks.device) // block_dim
    return masks >> layer & 1 != 0


def lookup_gradients(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
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
    if is_traced(grad_rows):
        return _traced_gradient(ctx, grad_rows, targets, num_targets)
    if ctx.geometry[0] == ColumnsLayout.code or ctx.mean:
        kept = targets >= 0
        rows, inverse = torch.unique(targets[kept], return_inverse=True)
        values = _scatter(ctx, grad_rows, targets.masked_scatter(kept, inverse), len(rows))
        return _sparse_rows(rows, values, num_targets, is_coalesced=True)
    # Whole rows: what came in is the gradient, under the rows it belongs to. Nothing is sorted or
    # summed; optimisers that want each row once coalesce.
    if item_group is not None:
        owner = torch.full_like(indices, ctx.group) if groups is None else groups
        some = held_values(None, grad_rows.shape[1], indices, owner, item_group, held)[:, 0]
        targets = torch.where(some, targets, -1)
    if targets is not indices and len(targets) and int(targets.min()) < 0:
        kept = targets >= 0
        targets, grad_rows = targets[kept], grad_rows[kept]
    return _sparse_rows(targets, grad_rows, num_targets)


def _traced_gradient(ctx: Any, grad_rows: Tensor, targets: Tensor, num_targets: int) -> Tensor:
    """The sparse gradient where no shape may depend on values, so that all of targets [m] stay.

    Those that are -1 become zeros for a row that is there anyway, as optimisers step every row they
    are given.
    """
    if num_targets == 0:
        return _sparse_rows(targets[:0], grad_rows[:0], num_targets)
    indices, groups, _, item_group, held = ctx.saved_tensors
    parts = _parts_taken(ctx, grad_rows, targets, num_targets, indices, groups, item_group, held)
    there = torch.cat([targets, targets.new_zeros(1)]).amax()
    coordinates = torch.where(targets >= 0, targets, there)
    return _sparse_rows(coordinates, parts, num_targets)


def _sparse_rows(
    targets: Tensor, rows: Tensor, num_targets: int, is_coalesced: bool | None = None
) -> Tensor:
    """The sparse tensor [num_targets, dim] of rows [m, dim] at targets [m], which are in range."""
    return torch.sparse_coo_tensor(
        targets[None], rows, (num_targets, rows.shape[1]), device=rows.device,
        is_coalesced=is_coalesced, check_invariants=False,
    )  # fmt: skip


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
