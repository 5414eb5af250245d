"""Training and measuring by several processes together: each has a rank, and a part of the rows.

Or each maps batches of users: :func:`export_users`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    export_users: Callable[..., Any]

#: What maps over batches of users needs a trained run, which lies above this layer: it is found when it
#: is asked for.
_HOMES = {"export_users": "peel_ext.train.user_files"}

__all__ = ["export_users"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peel_ext.scale' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
