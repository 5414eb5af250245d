"""Training and measuring by several processes together: each has a rank, and a part of the rows.

Or each maps batches of users: :func:`export_users`. A table that others sharded is had under budgets by
:class:`ShardedEmbedding`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from peel_ext.scale.sharded_embedding import ShardedEmbedding as ShardedEmbedding

    export_users: Callable[..., Any]

#: Names load on first use. What maps over batches of users needs a trained run, which lies above this
#: layer.
_HOMES = {
    "ShardedEmbedding": "peel_ext.scale.sharded_embedding",
    "export_users": "peel_ext.train.user_files",
}

__all__ = ["ShardedEmbedding", "export_users"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peel_ext.scale' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
