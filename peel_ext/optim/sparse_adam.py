"""Adam on the touched rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from peel_ext.ops import update_rows
from peel_ext.optim.row_optimizer import RowOptimizer, check_learning_rate, check_numbers


class SparseAdam(RowOptimizer):
    """``torch.optim.SparseAdam``, fused: the same steps up to rounding, from the same state.

    Moments of rows without a gradient do not decay.

    Args:
        params: float32 parameters [n, dim] with adjacent columns, whose gradients are sparse ones
            of whole rows.
        lr: learning rate, above 0, a number or a tensor of one.
        betas: decay of the moments, in [0, 1).
        eps: added to the root, at least 0.
        maximize: whether to step up the gradient.

    Raises:
        ValueError: a number out of range; at a step, a gradient that is not sparse.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        check_learning_rate(lr)
        options = {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize}
        self._check_numbers(options)
        super().__init__(params, options)

    def _check_numbers(self, options: Mapping[str, Any]) -> None:
        check_numbers(lr=options["lr"], eps=options["eps"])
        betas = options["betas"]
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")

    def _state_shapes(self, parameter: Tensor) -> dict[str, tuple[int, ...] | None]:
        shape = tuple(parameter.shape)
        return {"step": None, "exp_avg": shape, "exp_avg_sq": shape}

    def _step_rows(
        self, parameter: Tensor, group: dict[str, Any], indices: Tensor, gradients: Tensor
    ) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        update_rows(
            parameter,
            indices,
            gradients,
            [state["exp_avg"], state["exp_avg_sq"]],
            rule="adam",
            learning_rate=float(group["lr"]),
            eps=float(group["eps"]),
            betas=(float(group["betas"][0]), float(group["betas"][1])),
            step=state["step"] + 1,
        )
        state["step"] += 1  # only now: an error must not count
