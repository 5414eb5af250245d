"""The base of optimisers of touched rows: the loop over parameters, their options and their state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

#: Options of torch's optimisers that change a step and have no counterpart here.
_NOT_TAKEN = ("weight_decay", "lr_decay", "amsgrad", "momentum_decay", "differentiable")


class RowOptimizer(Optimizer, ABC):
    """Steps parameters [n, dim] by the rows of their sparse gradients.

    Options and state that come from elsewhere, as those of torch's optimisers, are taken where they
    mean the same here, and refused where they do not.
    """

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
        touched = [  # of all, before any is stepped
            (parameter, group, *self._touched_rows(parameter.grad))
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        for parameter, group, indices, gradients in touched:
            self._step_rows(
                parameter, group, indices, -gradients if group["maximize"] else gradients
            )
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own, as ``torch.optim.Optimizer`` does.

        Raises:
            ValueError: an option out of range, or one that is not taken; a sparse or complex
                parameter.
        """
        self._check_options(len(self.param_groups), {**self.defaults, **param_group})
        parameters = param_group["params"]
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        for at, parameter in enumerate(parameters):
            if isinstance(parameter, Tensor) and (
                parameter.layout != torch.strided or parameter.is_complex()
            ):
                raise ValueError(
                    f"{type(self).__name__} steps dense real parameters, but number {at} of "
                    f"param_groups[{len(self.param_groups)}] is {parameter.layout}, {parameter.dtype}"
                )
        super().add_param_group({**param_group, "params": parameters})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes the options and the state of a checkpoint, a pickle or a copy.

        Raises:
            ValueError: options or state that are not taken; the optimiser is as it was then.
        """
        number = 0
        kept = state.get("state", {})
        for at, group in enumerate(state.get("param_groups", [])):
            group.setdefault("maximize", False)  # of a time without this option
            self._check_options(at, group)
            for parameter in group["params"]:
                if kept.get(parameter):
                    kept[parameter] = self._check_state(number, kept[parameter], parameter)
                number += 1
        super().__setstate__(state)

    @abstractmethod
    def _step_rows(
        self, parameter: Tensor, group: dict[str, Any], indices: Tensor, gradients: Tensor
    ) -> None:
        """Steps the rows of one parameter; indices may repeat."""

    @abstractmethod
    def _check_numbers(self, options: Mapping[str, Any]) -> None:
        """Raises ValueError unless the options are in range, KeyError where one is missing."""

    @abstractmethod
    def _state_shapes(self, parameter: Tensor) -> dict[str, tuple[int, ...] | None]:
        """The shape of every tensor of a parameter's state by name; None: a count of steps."""

    def _check_options(self, at: int, options: Mapping[str, Any]) -> None:
        name = type(self).__name__
        for option in _NOT_TAKEN:
            if options.get(option):
                raise ValueError(
                    f"{name} has no {option}, but param_groups[{at}] sets it to {options[option]!r}"
                )
        try:
            self._check_numbers(options)
        except KeyError as missing:
            raise ValueError(
                f"param_groups[{at}] must have {missing} for {name}, it has {sorted(options)}"
            ) from None

    def _check_state(
        self, number: int, state: Mapping[str, Any], parameter: Tensor
    ) -> dict[str, Any]:
        """The state of a parameter as it is kept here."""
        shapes = self._state_shapes(parameter)
        if set(state) != set(shapes):
            raise ValueError(
                f"the state of {type(self).__name__} is {sorted(shapes)}, that of parameter "
                f"{number} is {sorted(state)}"
            )
        own: dict[str, Any] = {}
        for name, shape in shapes.items():
            if shape is None:
                own[name] = int(state[name])  # a tensor in torch's Adam
                continue
            if tuple(state[name].shape) != shape:
                raise ValueError(
                    f"{name} in the state of parameter {number} must have shape {shape}, got "
                    f"{tuple(state[name].shape)}"
                )
            own[name] = state[name].contiguous()
        return own

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


def check_numbers(**options: Any) -> None:
    """Raises ValueError unless every option is one number, at least 0 and finite."""
    for name, value in options.items():
        number = _one_number(name, value)
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {number}")


def check_learning_rate(lr: float | Tensor) -> None:
    """Raises ValueError unless the first learning rate is above 0; later ones may be 0."""
    number = _one_number("lr", lr)
    if not 0 < number < math.inf:
        raise ValueError(f"lr must be above 0 and finite, got {number}")


def _one_number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} must be one number, got shape {tuple(value.shape)}")
    return float(value)
