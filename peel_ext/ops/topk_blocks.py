"""topk_blocks: which blocks a budget keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from peel_ext.ops import _bridge
from peel_ext.ops._checks import (
    check_int,
    check_shape,
    check_tensor,
    is_traced,
    rows_with_unit_stride,
)

# An index of more bits would not fit beside a weight in one 64-bit record of the native sort.
_MAX_WEIGHTS = (1 << 32) - 1


def _select(
    weights: Tensor,
    k: int | None,
    costs: Tensor | None,
    budget_bytes: Tensor | None,
    in_order: bool,
) -> Tensor:
    # A saved program calls the registered op with whatever it is given.
    checked = _check(weights, k, costs, budget_bytes)
    return _bridge.topk_blocks(rows_with_unit_stride(weights), *checked, in_order)


_select_op = torch.library.custom_op("peel_ext::topk_blocks", _select, mutates_args=())


@_select_op.register_fake
def _(
    weights: Tensor, k: int | None, costs: Tensor | None, budget: Tensor | None, in_order: bool
) -> Tensor:
    width = weights.shape[1] if k is None else k
    return weights.new_empty((weights.shape[0], width), dtype=torch.int64)


def topk_blocks(
    weights: Tensor,
    k: int | None = None,
    *,
    costs: Tensor | None = None,
    budget_bytes: Tensor | int | None = None,
    sorted: bool = True,
) -> Tensor:
    """Selects blocks per user group: the k largest weights, or what fits a budget.

    By budget, the result is the longest run of blocks in descending weight per byte,
    ``float64(weight) / float64(cost)``, whose costs sum to at most the budget: it stops at the first
    block that does not fit, so a smaller budget keeps a subset.

    Args:
        weights: float32 or float64 [num_groups, n] or [n], n below 2^32.
        k: how many to select, 0 <= k <= n. Not together with costs.
        costs: int64 [n] or [num_groups, n], bytes of each block, at least 1.
        budget_bytes: int or int64 [num_groups], at least 0; with costs.
        sorted: whether the indices come in descending weight; as in ``torch.topk``, what is selected
            does not depend on it.

    Returns:
        int64 [num_groups, k], or with costs [num_groups, n]: block indices in descending weight (per
        byte), equal ones in ascending index, or all in ascending index if not ``sorted``; the rest
        -1. Without the first dimension for weights [n].

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, k or budget out of range, a NaN weight, a cost below 1. On a CUDA
            device costs and budgets are not looked at.
    """
    traced = is_traced(weights)
    if not traced and costs is None and budget_bytes is None:
        # Of few weights a call takes as long as its checks: they are made in one native call.
        indices = _bridge.adjacent_topk(weights, k, sorted)
        if indices is not None:
            return indices
    if isinstance(weights, Tensor) and weights.ndim == 1:
        return topk_blocks(weights[None], k, costs=costs, budget_bytes=budget_bytes, sorted=sorted)[
            0
        ]
    k, costs, budgets = _check(weights, k, costs, budget_bytes)
    if traced:
        return _select_op(weights.detach(), k, costs, budgets, sorted)
    rows = rows_with_unit_stride(weights.detach())
    return _bridge.topk_blocks(rows, k, costs, budgets, sorted)


def _check(
    weights: Tensor, k: int | None, costs: Tensor | None, budget_bytes: Tensor | int | None
) -> tuple[int | None, Tensor | None, Tensor | None]:
    """k, or costs and budgets, as the kernel takes them."""
    check_tensor("weights", weights, (torch.float32, torch.float64), 2)
    n = weights.shape[1]
    if n > _MAX_WEIGHTS:
        raise ValueError(f"weights must have fewer than 2^32 columns, got {n}")
    if k is None:
        return None, *_check_budget(weights, costs, budget_bytes)
    if costs is not None or budget_bytes is not None:
        raise ValueError("k cannot be combined with costs and budget_bytes, got both")
    return check_int("k", k, 0, n), None, None


def _check_budget(
    weights: Tensor, costs: Tensor | None, budget_bytes: Tensor | int | None
) -> tuple[Tensor, Tensor]:
    """Costs [1 or num_groups, n] and budgets [num_groups], contiguous."""
    num_groups, n = weights.shape
    if costs is None or budget_bytes is None:
        raise ValueError("either k, or costs and budget_bytes must be given")
    if isinstance(costs, Tensor) and costs.ndim == 1:
        costs = costs[None]
    check_tensor("costs", costs, (torch.int64,), 2)
    check_shape("costs", costs, (1 if costs.shape[0] == 1 else num_groups, n))
    # Values are not looked at where tracing would have to be broken off, or a device waited for.
    looked_at = costs.is_cpu and not is_traced(weights, costs)
    if looked_at and costs.numel() and int(costs.min()) < 1:
        raise ValueError(f"costs must be at least 1, got {int(costs.min())}")
    if isinstance(budget_bytes, Tensor):
        check_tensor("budget_bytes", budget_bytes, (torch.int64,), 1)
        check_shape("budget_bytes", budget_bytes, (num_groups,))
        budgets = budget_bytes.contiguous()
    else:
        check_int("budget_bytes", budget_bytes, 0)
        budgets = torch.full((num_groups,), budget_bytes, dtype=torch.int64, device=weights.device)
    if looked_at and budgets.numel() and int(budgets.min()) < 0:
        raise ValueError(f"budget_bytes must be at least 0, got {int(budgets.min())}")
    return costs.contiguous(), budgets
