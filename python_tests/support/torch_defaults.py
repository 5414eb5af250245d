"""Torch's default dtype and device, changed for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_defaults(name: str) -> Iterator[None]:
    """Inside this context the default is a dtype of that name, or else the meta device.

    The meta device shows on a machine without a GPU what the default device reaches: its tensors
    have no values.

    Args:
        name: of a dtype, or of the way to set a device: ``"set_default_device"``, ``"torch.device"``.
    """
    dtype = torch.get_default_dtype()
    if name == "torch.device":
        with torch.device("meta"):
            yield
        return
    try:
        if name == "set_default_device":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, name))
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(dtype)
