"""What Adam knows of its parameters, as arrays for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.train.placement import to_array

_PARTS = ("step", "exp_avg", "exp_avg_sq")


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
            for part in _PARTS
        )
        optimiser.state[parameter] = dict(zip(_PARTS, (step.view(()), *moments), strict=True))
