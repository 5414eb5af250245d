"""The tables of the embeddings that a model is given."""

from __future__ import annotations

from torch import Tensor, nn


def table_of(embedding: nn.Module) -> Tensor:
    """The weight [n, dim] of an embedding.

    Raises:
        ValueError: a module without one.
    """
    weight = getattr(embedding, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(
            f"an embedding needs a weight of shape [n, dim], {type(embedding).__name__} has none"
        )
    return weight


def tables_of(user_embedding: nn.Module, item_embedding: nn.Module) -> tuple[Tensor, Tensor]:
    """Both weights.

    Raises:
        ValueError: a module without one, or weights of different width or dtype.
    """
    users, items = table_of(user_embedding), table_of(item_embedding)
    if users.shape[1] != items.shape[1] or users.dtype != items.dtype:
        raise ValueError(
            "both embeddings must have the same width and dtype, got "
            f"{tuple(users.shape)} {users.dtype} and {tuple(items.shape)} {items.dtype}"
        )
    return users, items
