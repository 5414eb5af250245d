"""Matrix factorisation: scores are dot products of embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from peel_ext.models.tables import tables_of


class MatrixFactorisation(nn.Module):
    """Scores are dot products of the two embeddings' rows (Koren et al., 2009).

    Args:
        user_embedding: a module with a ``weight`` of shape [num_users, dim].
        item_embedding: a module with a ``weight`` of shape [num_items, dim], same dtype.

    Raises:
        ValueError: a module without such a weight, or weights that do not fit.
    """

    def __init__(self, user_embedding: nn.Module, item_embedding: nn.Module) -> None:
        super().__init__()
        tables_of(user_embedding, item_embedding)
        self.user_embedding = user_embedding
        self.item_embedding = item_embedding

    def forward(self) -> tuple[Tensor, Tensor]:
        """The vectors of everybody and everything, [num_users, dim] and [num_items, dim]."""
        return tables_of(self.user_embedding, self.item_embedding)
