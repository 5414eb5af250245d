"""Adagrad with one accumulator a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from peel_ext.ops import update_rows
from peel_ext.optim.row_optimizer import RowOptimizer, check_learning_rate, check_numbers


class RowwiseAdagrad(RowOptimizer):
    """Rowwise Adagrad for embeddings with ``sparse=True``: fused, and only on the touched rows.

    Per touched row with gradient g: ``sum += mean(g^2)``, ``w -= lr * g / (sqrt(sum) + eps)``
    (Duchi et al., 2011, with one accumulator a row as in Mudigere et al., 2021, section 3). State
    is one float32 a row, where Adam keeps two tables.

    Args:
        params: float32 parameters [n, dim] with adjacent columns, whose gradients are sparse ones
            of whole rows.
        lr: learning rate, above 0, a number or a tensor of one.
        eps: added to the root, at least 0.
        initial_accumulator_value: start of the sums, at least 0.
        maximize: whether to step up the gradient.

    Raises:
        ValueError: a number out of range; at a step, a gradient that is not sparse.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        eps: float = 1e-8,
        initial_accumulator_value: float = 0.0,
        maximize: bool = False,
    ) -> None:
        check_learning_rate(lr)
        options = {
            "lr": lr, "eps": eps, "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
        }  # fmt: skip
        self._check_numbers(options)
        super().__init__(params, options)

    def _check_numbers(self, options: Mapping[str, Any]) -> None:
        check_numbers(
            lr=options["lr"],
            eps=options["eps"],
            initial_accumulator_value=options["initial_accumulator_value"],
        )

    def _state_shapes(self, parameter: Tensor) -> dict[str, tuple[int, ...] | None]:
        return {"sum": (parameter.shape[0],)}

    def _step_rows(
        self, parameter: Tensor, group: dict[str, Any], indices: Tensor, gradients: Tensor
    ) -> None:
        state = self.state[parameter]
        if not state:
            start = float(group["initial_accumulator_value"])
            state["sum"] = parameter.new_full((parameter.shape[0],), start)
        update_rows(
            parameter,
            indices,
            gradients,
            [state["sum"]],
            rule="rowwise_adagrad",
            learning_rate=float(group["lr"]),
            eps=float(group["eps"]),
        )
