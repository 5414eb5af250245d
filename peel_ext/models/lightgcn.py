"""LightGCN: embeddings smoothed over the graph of interactions."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from peel_ext.models.tables import tables_of


class LightGCN(nn.Module):
    """Light graph convolution (He et al., 2020, arXiv 2002.02126).

    With A the user by item matrix of ones, its rows and columns divided by the square roots of
    their sums, layer k + 1 is ``users = A @ items, items = A.T @ users`` of layer k (equation 3),
    layer 0 the embeddings themselves. The result is the mean of all layers (equation 4, weights
    1 / (num_layers + 1)). There are no other parameters.

    Args:
        user_embedding: a module with a ``weight`` of shape [num_users, dim].
        item_embedding: a module with a ``weight`` of shape [num_items, dim], same dtype.
        indptr: int64 [num_users + 1], training interactions in CSR form.
        item_rows: int64 [num_interactions], user u's are
            ``item_rows[indptr[u] : indptr[u + 1]]``.
        num_layers: rounds of smoothing, at least 0.

    Raises:
        ValueError: a module without such a weight, shapes or ids that do not fit, or fewer than 0
            layers.
    """

    to_users: Tensor
    to_items: Tensor

    def __init__(
        self,
        user_embedding: nn.Module,
        item_embedding: nn.Module,
        indptr: Tensor,
        item_rows: Tensor,
        num_layers: int = 2,
    ) -> None:
        super().__init__()
        if num_layers < 0:
            raise ValueError(f"num_layers must be at least 0, got {num_layers}")
        users, items = tables_of(user_embedding, item_embedding)
        if indptr.shape != (len(users) + 1,):
            raise ValueError(
                f"indptr must have shape ({len(users) + 1},), got {tuple(indptr.shape)}"
            )
        self.user_embedding = user_embedding
        self.item_embedding = item_embedding
        self.num_layers = num_layers
        to_users, to_items = normalised_adjacency(indptr, item_rows, len(items), users.dtype)
        self.register_buffer("to_users", to_users, persistent=False)
        self.register_buffer("to_items", to_items, persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The vectors of everybody and everything, [num_users, dim] and [num_items, dim]."""
        users, items = tables_of(self.user_embedding, self.item_embedding)
        user_sum, item_sum = users, items
        for _ in range(self.num_layers):
            users, items = (
                _sparse_product(self.to_users, self.to_items, items),
                _sparse_product(self.to_items, self.to_users, users),
            )
            user_sum, item_sum = user_sum + users, item_sum + items
        return user_sum / (self.num_layers + 1), item_sum / (self.num_layers + 1)


def normalised_adjacency(
    indptr: Tensor, item_rows: Tensor, num_items: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The matrix A of :class:`LightGCN` and its transpose.

    The weight of an interaction is ``1 / sqrt(degree of the user * degree of the item)``.

    Args:
        indptr: int64 [num_users + 1].
        item_rows: int64 [num_interactions].
        num_items: number of items.
        dtype: dtype of the weights.

    Returns:
        Two sparse CSR matrices, [num_users, num_items] and [num_items, num_users].

    Raises:
        ValueError: indptr does not cover the interactions, or an item is out of range.
    """
    user_degrees = indptr.diff()
    covers = int(indptr[0]) == 0 and int(indptr[-1]) == item_rows.numel()
    if not covers or bool((user_degrees < 0).any()):
        raise ValueError(f"indptr must rise from 0 to the {item_rows.numel()} interactions")
    if item_rows.numel() and not 0 <= int(item_rows.min()) <= int(item_rows.max()) < num_items:
        raise ValueError(f"items must lie in [0, {num_items})")
    owners = torch.repeat_interleave(user_degrees)
    item_degrees = torch.bincount(item_rows, minlength=num_items)
    weights = (user_degrees[owners] * item_degrees[item_rows]).to(dtype).rsqrt()
    by_item = torch.argsort(item_rows, stable=True)
    item_indptr = torch.cat([indptr.new_zeros(1), item_degrees.cumsum(0)])
    shape = (len(user_degrees), num_items)
    return (
        csr_matrix(indptr, item_rows, weights, shape),
        csr_matrix(item_indptr, owners[by_item], weights[by_item], shape[::-1]),
    )


def csr_matrix(indptr: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A sparse matrix; columns may be unsorted and come again."""
    with warnings.catch_warnings():
        # Torch calls sparse CSR a beta; the product is all that is used of it here.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        # Torch's own check would refuse unsorted and repeated columns, which products do not mind.
        return torch.sparse_csr_tensor(
            indptr, columns, values, shape, device=values.device, check_invariants=False
        )


class _SparseProduct(torch.autograd.Function):
    """``matrix @ dense``, its gradient with the transpose at hand.

    Torch's own gradient would transpose the sparse matrix anew in every step.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradient


def _sparse_product(matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
    product: Tensor = _SparseProduct.apply(matrix, transposed, dense)
    return product
