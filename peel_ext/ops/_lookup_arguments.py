"""The arguments of grouped_lookup: checked, and brought into the form the kernel wants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from peel_ext.format.layout import VALUE_TYPES
from peel_ext.format.store import BlockStore
from peel_ext.ops import _bridge
from peel_ext.ops._checks import check_int, check_shape, check_tensor, is_traced

_INDEX = (torch.int32, torch.int64)


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
    each = groups.shape == indices.shape
    if not each or groups.dtype not in _INDEX:
        _check_groups_fit(groups, indices)
    spread = groups if groups.dtype == indices.dtype else groups.to(indices.dtype)
    if not each:
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


def check_table(
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


def split_geometry(geometry: list[int]) -> tuple[int, int, int, list[int]]:
    """Layout, value type, block_dim and the bits of the layers."""
    return geometry[0], geometry[1], geometry[2], geometry[3:]
