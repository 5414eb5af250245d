"""The one place of the op layer that touches data pointers.

Every function allocates its output, passes addresses to the native core, and turns what the core
found wrong inside the data into an error that names it. Shapes and dtypes were checked before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peel_ext import _core, threads

threads.follow(torch.get_num_threads())


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def topk_blocks(
    weights: Tensor,
    k: int | None,
    costs: Tensor | None,
    budget_bytes: Tensor | None,
    in_order: bool,
) -> Tensor:
    """Indices int64 [num_groups, k or n] for weights [num_groups, n] with unit column stride."""
    num_groups, n = weights.shape
    width = n if k is None else k
    indices = torch.empty((num_groups, width), dtype=torch.int64)
    nan = _core.topk_blocks(
        _address(weights),
        weights.element_size(),
        num_groups,
        n,
        weights.stride(0),
        width,
        _address(costs),
        0 if costs is None or costs.shape[0] == 1 else n,
        _address(budget_bytes),
        in_order,
        _address(indices),
    )
    if nan >= 0:
        raise ValueError(f"weights[{nan // n}, {nan % n}] is NaN, expected a number")
    return indices


def store_table(
    weight: Tensor | None,
    num_embeddings: int,
    dim: int,
    num_groups: int,
    refinement: Tensor | None,
    refinement_slot: Tensor | None,
    geometry: tuple[int, int, int, list[int]],
    store: Tensor | None,
    scales: Tensor | None,
    item_group: Tensor | None,
    held: Tensor | None,
    centroids: Tensor | None,
    rotation: Tensor | None,
) -> _core.StoreTable:
    """The native view of a table; valid while its tensors live."""
    layout, value_type, block_dim, layer_bits = geometry
    shared = item_group is None or item_group.shape[0] == 1
    return _core.StoreTable(
        layout,
        value_type,
        dim,
        block_dim,
        layer_bits,
        num_embeddings,
        num_groups,
        _address(weight),
        0 if weight is None else weight.stride(0),
        _address(refinement),
        _address(refinement_slot),
        0 if refinement is None else refinement.shape[0],
        _address(store),
        0 if store is None else store.shape[1],
        _address(scales),
        0 if scales is None else scales.shape[1],
        _address(item_group),
        0 if shared else num_embeddings,
        _address(held),
        0 if held is None else held.shape[1],
        _address(centroids),
        _address(rotation),
    )


def _raise_bad_pair(
    result: tuple[int, int],
    indices: Tensor,
    groups: Tensor | None,
    group: int,
    num_embeddings: int,
    num_groups: int,
) -> None:
    status, position = result
    if status == 1:
        raise IndexError(
            f"indices contain {int(indices[position])} at flat position {position}, "
            f"expected values in [0, {num_embeddings})"
        )
    if status == 2:
        value = group if groups is None else int(groups[position])
        raise IndexError(f"groups contain {value}, expected values in [0, {num_groups})")
    names = {3: "refinement_slot", 4: "blocks.item_group"}
    if status in names:
        raise IndexError(
            f"{names[status]} of index {int(indices[position])} leads beyond the rows there are"
        )


def grouped_lookup(
    table: _core.StoreTable,
    indices: Tensor,
    groups: Tensor | None,
    group: int,
    num_embeddings: int,
    num_groups: int,
    dim: int,
) -> Tensor:
    """Rows float32 [m, dim] for contiguous indices [m] and groups [m] of the same dtype."""
    rows = torch.empty(indices.shape[0], dim)
    result = _core.grouped_lookup(
        table,
        indices.shape[0],
        _address(indices),
        _address(groups),
        group,
        indices.element_size(),
        _address(rows),
    )
    if result[0]:
        _raise_bad_pair(result, indices, groups, group, num_embeddings, num_groups)
    return rows


def grouped_lookup_backward(
    table: _core.StoreTable,
    indices: Tensor,
    groups: Tensor | None,
    group: int,
    grad_rows: Tensor,
    targets: Tensor,
    num_targets: int,
    mean_duplicates: bool,
) -> Tensor:
    """Gradient float32 [num_targets, dim] of contiguous grad_rows [m, dim], targets int64 [m]."""
    grad = torch.zeros(num_targets, grad_rows.shape[1])
    _core.grouped_lookup_backward(
        table,
        indices.shape[0],
        _address(indices),
        _address(groups),
        group,
        indices.element_size(),
        _address(grad_rows),
        _address(targets),
        num_targets,
        mean_duplicates,
        _address(grad),
    )
    return grad


def gathered_score(
    users: Tensor,
    table: Tensor | _core.Pee,
    n: int,
    candidates: Tensor | None,
    exclude_indptr: Tensor | None,
    exclude: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Indices int64 and scores float32 [num_users, n]; a dense table has unit column stride."""
    indices = torch.empty((users.shape[0], n), dtype=torch.int64)
    scores = torch.empty((users.shape[0], n))
    tail: tuple[Any, ...] = (
        _address(users),
        users.shape[0],
        users.stride(0),
        _address(exclude_indptr),
        _address(exclude),
        n,
        _address(scores),
        _address(indices),
    )
    if isinstance(table, Tensor):
        num_candidates = 0 if candidates is None else candidates.shape[0]
        # An empty list has no address, and none at all means every row.
        address = 0 if candidates is None else _address(candidates) or _address(indices) or 1
        _core.gathered_score(
            _address(table),
            table.shape[0],
            table.shape[1],
            table.stride(0),
            address,
            num_candidates,
            *tail,
        )
    else:
        table.score(*tail)
    return indices, scores


def first_out_of_range(values: Tensor, limit: int) -> int:
    """Position of the first of contiguous integers [m] outside [0, limit), or -1."""
    return _core.first_out_of_range(_address(values), values.element_size(), values.shape[0], limit)


def update_rows(
    rule: int,
    weight: Tensor,
    indices: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor | None,
    step_size: float,
    rates: tuple[float, float],
    eps: float,
) -> None:
    """Steps weight [n, dim] of unit column stride in place; indices [m] and state are contiguous."""
    bad = _core.update_rows(
        rule,
        _address(weight),
        weight.shape[0],
        weight.shape[1],
        weight.stride(0),
        _address(indices),
        indices.shape[0],
        _address(gradients),
        gradients.stride(0),
        _address(first),
        _address(second),
        step_size,
        *rates,
        eps,
    )
    if bad >= 0:
        raise IndexError(
            f"indices contain {int(indices[bad])} at position {bad}, expected values in "
            f"[0, {weight.shape[0]})"
        )
