"""What optimisers of touched rows share: the loop over parameters and the rows of a gradient."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer


class RowOptimizer(Optimizer, ABC):
    """Steps parameters [n, dim] by the rows of their sparse gradients."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what the closure returns, if there is one.

        Raises:
            ValueError: a gradient that is not a sparse one of rows.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_rows(parameter, group, *self._touched_rows(parameter.grad))
        return loss

    @abstractmethod
    def _step_rows(
        self, parameter: Tensor, group: dict[str, Any], indices: Tensor, gradients: Tensor
    ) -> None:
        """Steps the rows of one parameter; indices may repeat."""

    def _touched_rows(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Indices int64 [m] and gradients [m, dim], duplicates as they come."""
        name = type(self).__name__
        if not gradient.is_sparse:
            raise ValueError(
                f"{name} needs sparse gradients, got a dense one of shape "
                f"{tuple(gradient.shape)}: make the embedding with sparse=True"
            )
        if gradient.sparse_dim() != 1 or gradient.dense_dim() != 1:
            raise ValueError(
                f"{name} needs gradients of whole rows, got {gradient.sparse_dim()} sparse and "
                f"{gradient.dense_dim()} dense dimensions"
            )
        return gradient._indices()[0], gradient._values()


def check_numbers(lr: float, **others: float) -> None:
    """Raises ValueError unless lr is above 0 and all others are at least 0."""
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be above 0 and finite, got {lr}")
    for name, value in others.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
