"""update_rows row by row, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def update_rows(
    weight: Tensor,
    indices: Tensor,
    gradients: Tensor,
    state: Sequence[Tensor],
    *,
    rule: str,
    learning_rate: float,
    eps: float,
    betas: tuple[float, float] = (0.9, 0.999),
    step: int = 1,
) -> None:
    """See :func:`peel_ext.ops.update_rows`."""
    with torch.no_grad():
        for row in torch.unique(indices).tolist():
            gradient = gradients[indices == row].double().sum(dim=0)
            values = weight[row].double()
            if rule == "rowwise_adagrad":
                total = state[0][row].double() + gradient.square().mean()
                state[0][row] = total
                weight[row] = values - learning_rate * gradient / (total.sqrt() + eps)
                continue
            first = torch.lerp(gradient, state[0][row].double(), betas[0])
            second = torch.lerp(gradient.square(), state[1][row].double(), betas[1])
            state[0][row], state[1][row] = first, second
            scale = (1 - betas[1] ** step) ** 0.5 / (1 - betas[0] ** step)
            weight[row] = values - learning_rate * scale * first / (second.sqrt() + eps)
