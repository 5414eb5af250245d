"""The place of the tensors of training: beside NumPy's data, or on the device of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from peel_ext.config import DEVICES
from peel_ext.ops import lookup

#: Keyword arguments of what makes a tensor or a layer, whatever the defaults of torch are.
FLOAT32_ON_CPU: Any = {"dtype": torch.float32, "device": "cpu"}


def require_device(device: str) -> None:
    """Checks that torch has a device.

    Args:
        device: one of :data:`peel_ext.config.DEVICES`.

    Raises:
        ValueError: another one, or torch has none.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device must be one that torch {torch.__version__} finds here, which is cpu alone, "
            f"got {device!r}"
        )


def ranking_device(device: str) -> str:
    """The device that ranks lists of items: the given one if there are kernels for it, else the CPU."""
    return device if device in lookup.DEVICES else "cpu"


def remark_on_ranking(device: str, on_remark: Callable[[str], None]) -> None:
    """Tells where the CPU ranks lists of items in the place of a device."""
    if ranking_device(device) != device:
        on_remark(
            "lists of items are ranked on the CPU: this package was built without kernels for CUDA"
        )


def limit_chunk(device: torch.device) -> int:
    """Upper limit in bytes of one matrix of scores, of which there are a few at once.

    On the CPU small enough to stay near the caches, and large enough for the matrix products to run at
    full speed; elsewhere large enough for starting kernels to take no time beside theirs.
    """
    return 16 * 2**20 if device.type == "cpu" else 256 * 2**20


def to_array(tensor: Tensor) -> NDArray[Any]:
    """The values as NumPy has them; on the CPU it is the same memory."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
