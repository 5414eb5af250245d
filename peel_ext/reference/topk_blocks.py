"""topk_blocks by a full stable sort."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_blocks(
    weights: Tensor,
    k: int | None = None,
    *,
    costs: Tensor | None = None,
    budget_bytes: Tensor | int | None = None,
    sorted: bool = True,
) -> Tensor:
    """See :func:`peel_ext.ops.topk_blocks`."""
    if weights.ndim == 1:
        return topk_blocks(weights[None], k, costs=costs, budget_bytes=budget_bytes, sorted=sorted)[
            0
        ]
    if not sorted:
        chosen = topk_blocks(weights, k, costs=costs, budget_bytes=budget_bytes)
        last = weights.shape[1]  # where nothing was chosen, for as long as it takes to sort
        ascending = torch.where(chosen < 0, last, chosen).sort(dim=1).values
        return torch.where(ascending == last, -1, ascending)
    keys = weights.double()
    if costs is None or budget_bytes is None:
        return keys.sort(dim=1, descending=True, stable=True).indices[:, :k]
    costs = costs.expand(weights.shape)
    order = (keys / costs.double()).sort(dim=1, descending=True, stable=True).indices
    spent = costs.gather(1, order).cumsum(dim=1)
    budgets = torch.as_tensor(budget_bytes, device=weights.device).expand(len(weights))[:, None]
    return torch.where(spent <= budgets, order, -1)
