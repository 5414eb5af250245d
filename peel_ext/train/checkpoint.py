"""The state of a long stage, kept so that an interruption loses little."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.train.placement import to_array

#: Seconds between two checkpoints, and how many times longer than the last took to write.
_INTERVAL = 10.0
_PATIENCE = 50.0

#: The state of Adam for one parameter.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Checkpoint(Protocol):
    """A place for the state of one stage."""

    def load(self) -> dict[str, NDArray[Any]] | None:
        """The state saved last, or None."""

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replaces the state, atomically."""


class Timer:
    """Says when a checkpoint is due, so that writing them takes a small share of the time."""

    def __init__(self, interval: float = _INTERVAL) -> None:
        self._interval = interval
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """True if it is time to save."""
        return time.monotonic() - self._last >= self._interval

    def saved(self, began: float) -> None:
        """Notes a save that began at that moment of ``time.monotonic``."""
        self._last = time.monotonic()
        self._interval = max(self._interval, _PATIENCE * (self._last - began))


class Steps(Protocol):
    """A training in steps.

    Attributes:
        losses: loss before each step done, in nats.
        num_steps: number of steps in all.
    """

    losses: list[float]
    num_steps: int

    def step(self, done: int) -> float:
        """Makes a step after so many; returns the loss before it, in nats."""

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the next step depends on."""


def run_steps(
    training: Steps,
    on_progress: Callable[[int, int, float], None] | None,
    checkpoint: Checkpoint | None,
    is_due: Callable[[Timer], bool] = lambda timer: timer.is_due(),
) -> None:
    """Makes the steps that are left.

    Args:
        training: the training.
        on_progress: told the steps done, the steps in all and the loss after each.
        checkpoint: where the state is kept on the way; None: nowhere.
        is_due: whether it is time to save.
    """
    timer = Timer()
    while len(training.losses) < training.num_steps:
        training.losses.append(training.step(len(training.losses)))
        done = len(training.losses)
        if checkpoint is not None and done < training.num_steps and is_due(timer):
            began = time.monotonic()
            checkpoint.save(training.state())
            timer.saved(began)
        if on_progress is not None:
            on_progress(done, training.num_steps, training.losses[-1])


def adam_arrays(
    optimiser: torch.optim.Adam, parameters: Mapping[str, Tensor]
) -> dict[str, NDArray[Any]]:
    """Named parameters, and by ``NAME.PART`` the moments of those that have taken a step."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, parameter in parameters.items():
        arrays[name] = to_array(parameter)
        for part, value in optimiser.state.get(parameter, {}).items():
            arrays[f"{name}.{part}"] = to_array(value)
    return arrays


def restore_adam(
    optimiser: torch.optim.Adam,
    parameters: Mapping[str, Tensor],
    arrays: Mapping[str, NDArray[Any]],
) -> None:
    """Sets the parameters and their moments to what :func:`adam_arrays` gave."""
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(arrays[name]))
        if f"{name}.step" not in arrays:
            continue
        # Torch's own memory: sums round differently at another alignment.
        step, *moments = (
            torch.from_numpy(arrays[f"{name}.{part}"]).clone().to(parameter.device)
            for part in _MOMENTS
        )
        optimiser.state[parameter] = dict(zip(_MOMENTS, (step.view(()), *moments), strict=True))
