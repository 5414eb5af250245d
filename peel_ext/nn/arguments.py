"""Checks of what users give to an elastic embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from peel_ext.format import Layout, resolve_layout

_MOST_BYTES = (1 << 63) - 1
_MOST_COUNTED = (1 << 32) - 1  # a file has 32 bits for each of them


def as_int(value: Any) -> Any:
    """An integer of NumPy as one of Python; anything else as it is, for whoever checks it."""
    return int(value) if isinstance(value, np.integer) else value


def check_geometry(embedding_dim: int, num_groups: int, layout: Layout | str) -> Layout:
    """The layout, if rows can be cut by it.

    Raises:
        ValueError: a number or layout that does not fit.
    """
    for name, value, least in (("num_groups", num_groups, 1), ("embedding_dim", embedding_dim, 0)):
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_integer or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if value > _MOST_COUNTED:
            raise ValueError(f"{name} must be below 2^32, got {value}")
    layout = resolve_layout(layout, max(1, int(embedding_dim)))
    if embedding_dim > 0:
        layout.num_layers(embedding_dim)
    return layout


def check_budget(budget_bytes: int) -> int:
    """An integer in 64 bits, which is more than any table takes.

    Raises:
        TypeError: not an integer.
    """
    if type(budget_bytes) is int and budget_bytes <= _MOST_BYTES:
        return budget_bytes
    if isinstance(budget_bytes, bool) or not isinstance(budget_bytes, int | np.integer):
        raise TypeError(f"budget_bytes must be an integer, got {budget_bytes!r}")
    return min(int(budget_bytes), _MOST_BYTES)
